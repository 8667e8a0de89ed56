//! TLS 1.2 and 1.3 below HTTP.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Fault;
use crate::api::types::Health;

/// Does the handshake.
pub(super) async fn connect(
    stream: TcpStream,
    check: &Health,
    to: SocketAddr,
) -> Result<TlsStream<TcpStream>, Fault> {
    let connector = TlsConnector::from(config(check.verify).map_err(Fault::Local)?);
    connector.connect(name(check, to)?, stream).await.map_err(|error| {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(why)) => {
                Fault::target(format!("TLS: certificate refused: {}", words(why)))
            }
            Some(Error::AlertReceived(alert)) => {
                Fault::target(format!("TLS: the target sent alert {alert:?}"))
            }
            Some(error) => Fault::target(format!("TLS: {error}")),
            None => error.into(),
        }
    })
}

fn words(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer => "unknown issuer".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "not for this name".to_owned()
        }
        CertificateError::Other(other) => other.to_string(),
        other => format!("{other:?}"),
    }
}

/// The name that is asked for: an address asks for none (RFC 6066 3).
fn name(check: &Health, to: SocketAddr) -> Result<ServerName<'static>, Fault> {
    let host = check.host.as_deref().map(without_port);
    match check.sni.as_deref().or(host) {
        Some(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .map_err(|_| Fault::Local(format!("{name:?} cannot be a server's name: give sni"))),
        None => Ok(ServerName::IpAddress(to.ip().into())),
    }
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// One configuration for all checks that verify, one for all others.
fn config(verify: bool) -> Result<Arc<ClientConfig>, String> {
    static VERIFYING: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    static TRUSTING: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let place = if verify { &VERIFYING } else { &TRUSTING };
    place.get_or_init(|| make(verify).map(Arc::new)).clone()
}

fn make(verify: bool) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("no TLS: {error}"))?;
    let mut config = if verify {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("this host trusts no certificate authority: install ca-certificates, and start the agent again".to_owned());
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth()
    };
    // A target is to do all that a new client asks of it.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Takes any certificate, since the question is whether the target works, not who it is. That it has the certificate's key is
/// checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
