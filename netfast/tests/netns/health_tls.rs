//! Health checks by https: certificates that openssl has made, nginx that has them.

use std::{fs, path::Path};

use anyhow::{Result, ensure};

use crate::{
    health::wait_state,
    peers::need,
    support::{
        Agent, PATIENCE,
        netns::{Namespace, Process},
    },
    world::{CONFIG, SERVICE, TARGETS, World},
};

fn openssl(namespace: &Namespace, line: &str) -> Result<()> {
    let words: Vec<&str> = ["openssl"].into_iter().chain(line.split_whitespace()).collect();
    namespace.run(&words).map(drop)
}

/// nginx with TLS on 8443, of the certificate `dir/tls/crt`: the name `good.example` is served, any other one is sent away.
fn nginx(namespace: &Namespace, dir: &Path) -> Result<Process> {
    let own = dir.join("tls");
    let own = own.display();
    let server = |name: &str, extra: &str, answer: &str| {
        format!(
            "server {{ listen [::]:8443 ssl {extra}; server_name {name}; ssl_certificate {own}/crt; \
             ssl_certificate_key {own}/key; location / {{ return {answer}; }} }}\n"
        )
    };
    let servers = server("good.example", "ipv6only=off", "200 \"all is well\\n\"")
        + &server("_", "default_server", "421 \"no such name\\n\"");
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {own}/pid; error_log stderr;\nevents {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f; \
         uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n{servers} }}\n"
    );
    let file = format!("{own}/nginx.conf");
    fs::write(&file, text)?;
    let mut command = namespace.command("nginx");
    let mut nginx = namespace.spawn("nginx-tls", command.args(["-c", &file, "-e", "stderr"]))?;
    nginx.wait_ready(PATIENCE, || {
        Ok(namespace.run(&["curl", "-sk", "https://127.0.0.1:8443/"]).ok().map(drop))
    })?;
    Ok(nginx)
}

/// [`nginx`] with a certificate that it has signed itself.
pub fn self_signed(namespace: &Namespace, dir: &Path) -> Result<Process> {
    let own = dir.join("tls");
    fs::create_dir_all(&own)?;
    let own = own.display();
    openssl(
        namespace,
        &format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=good.example -addext subjectAltName=DNS:good.example \
             -addext basicConstraints=critical,CA:FALSE -keyout {own}/key -out {own}/crt"
        ),
    )?;
    nginx(namespace, dir)
}

/// [`nginx`] with a certificate by an authority of the test's own, `dir/tls/ca`.
fn signed(namespace: &Namespace, dir: &Path) -> Result<Process> {
    let own = dir.join("tls");
    fs::create_dir_all(&own)?;
    fs::write(
        own.join("extensions"),
        "subjectAltName=DNS:good.example\nbasicConstraints=critical,CA:FALSE\n",
    )?;
    let own = own.display();
    for line in [
        format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -addext keyUsage=critical,keyCertSign \
             -keyout {own}/ca-key -out {own}/ca"
        ),
        format!("req -newkey rsa:2048 -nodes -subj /CN=good.example -keyout {own}/key -out {own}/request"),
        format!(
            "x509 -req -in {own}/request -CA {own}/ca -CAkey {own}/ca-key -CAcreateserial -days 2 \
             -extfile {own}/extensions -out {own}/crt"
        ),
    ] {
        openssl(namespace, &line)?;
    }
    nginx(namespace, dir)
}

/// `verify = true`: a certificate by an authority that the host trusts is good, for the names that it is for.
#[test]
fn certificates_are_verified() -> Result<()> {
    need!("nginx", "curl", "openssl");
    let mut world = World::new("verify")?;
    let server = signed(&world.targets[0], world.bed.dir())?;
    world.servers.push(server);
    let trusted = format!("SSL_CERT_FILE={}", world.bed.dir().join("tls/ca").display());
    world.agent.kill()?;
    world.agent = Agent::start_by(&["env", &trusted], &world.bed, &world.host, CONFIG)?;
    let target = format!("{}:8443", TARGETS[0]);
    let often = "interval=200ms,timeout=150ms,rise=1,fall=2";
    for (at, (name, check)) in [
        ("good", "https:/,sni=good.example,verify=true,host=good.example,body=all is well"),
        ("other", "https:/,sni=other.example,verify=true"),
        ("trusting", "https:/,sni=other.example,status=421"),
    ]
    .into_iter()
    .enumerate()
    {
        let (listen, check) = (format!("{SERVICE}:{}", 3000 + at), format!("{check},{often}"));
        world.agent.ok(&["forward", "add", name, "tcp", &listen, "--to", &target, "--health", &check])?;
    }
    let error = wait_state(&world, "other", &target, "down")?;
    ensure!(error == "TLS: certificate refused: not for this name", "{error}");
    for name in ["good", "trusting"] {
        wait_state(&world, name, &target, "up")?;
    }
    world.sound()
}
