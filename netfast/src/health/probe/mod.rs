//! One check of one target.

mod dns;
mod http;
mod icmp;
mod tls;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nix::errno::Errno;
use tokio::{net::TcpStream, time::timeout};

use crate::api::types::{Health, HealthKind, Span};

/// Why a check did not succeed, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The target's: it counts as a failure.
    Target(String),
    /// This host's, which says nothing about the target.
    Local(String),
}

impl Fault {
    fn target(words: impl Into<String>) -> Self {
        Self::Target(words.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let words = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused",
            io::ErrorKind::ConnectionReset => "connection reset",
            io::ErrorKind::HostUnreachable => "no route to host",
            io::ErrorKind::NetworkUnreachable => "network unreachable",
            io::ErrorKind::UnexpectedEof => "connection closed early",
            _ => return Self::other(&error),
        };
        Self::target(words)
    }
}

impl Fault {
    fn other(error: &io::Error) -> Self {
        let local = [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOBUFS,
            Errno::ENOMEM,
            Errno::EACCES,
            Errno::EPERM,
            Errno::EADDRNOTAVAIL,
            Errno::EAFNOSUPPORT,
        ];
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) if local.contains(&errno) => {
                Self::Local(format!("this host cannot check it: {}", errno.desc().to_lowercase()))
            }
            Some(errno) => Self::target(errno.desc().to_lowercase()),
            None => Self::target(error.to_string()),
        }
    }
}

/// Asks a target once. `port`: the one that is asked unless the check names another.
pub(super) async fn probe(check: &Health, address: IpAddr, port: u16) -> Result<(), Fault> {
    let to = SocketAddr::new(address, check.port.unwrap_or(port));
    let limit = check.timeout();
    let asked = async {
        match check.kind {
            HealthKind::Tcp => connect(to).await.map(drop),
            HealthKind::Http => http::ask(connect(to).await?, check, to).await,
            HealthKind::Https => {
                http::ask(tls::connect(connect(to).await?, check, to).await?, check, to).await
            }
            HealthKind::Dns => dns::ask(check, to).await,
            HealthKind::Icmp => icmp::ask(address).await,
        }
    };
    timeout(limit, asked)
        .await
        .unwrap_or_else(|_| Err(Fault::target(format!("timeout after {}", span(limit)))))
}

fn span(time: Duration) -> Span {
    Span::from_millis(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
}

/// A connection that ends with a reset, so that thousands of checks leave nothing in TIME_WAIT.
async fn connect(to: SocketAddr) -> Result<TcpStream, Fault> {
    let stream = TcpStream::connect(to).await?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
