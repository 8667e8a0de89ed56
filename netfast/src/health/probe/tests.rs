//! Probes against peers on the loopback device; `tests/netns/health.rs` has those that nobody here wrote.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

async fn check(text: &str, to: SocketAddr) -> Result<(), String> {
    let check: Health = text.parse().unwrap();
    probe(&check, to.ip(), to.port()).await.map_err(|fault| match fault {
        Fault::Target(words) => words,
        Fault::Local(words) => format!("local: {words}"),
    })
}

/// A server that answers each request with the same bytes; gives the requests.
async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let _ = sender.send(String::from_utf8_lossy(&request[..length]).into_owned());
            let _ = stream.write_all(answer).await;
            // Until the client has gone, so that what it has not read is not thrown away by a reset.
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut request).await;
        }
    });
    (address, requests)
}

#[tokio::test]
async fn tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(Ok(()), check("tcp", address).await);
    drop(listener);
    assert_eq!(Err("connection refused".to_owned()), check("tcp", address).await);
}

#[tokio::test]
async fn another_port_is_asked_if_the_check_names_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = SocketAddr::new(address.ip(), 1);
    assert_eq!(Ok(()), check(&format!("tcp,port={}", address.port()), other).await);
}

#[tokio::test]
async fn http_answers_are_judged() {
    let (address, mut requests) = server(b"HTTP/1.1 503 No\r\nContent-Length: 6\r\n\r\nready!").await;
    for (text, wanted) in [
        ("http", Err("status 503, wanted 200-399")),
        ("http,status=200-299+404", Err("status 503, wanted 200-299, 404")),
        ("http,status=500-599", Ok(())),
        ("http,status=503,body=ready", Ok(())),
        ("http,status=503,body=steady", Err("the body has no \"steady\"")),
    ] {
        assert_eq!(wanted.map_err(str::to_owned), check(text, address).await, "{text}");
    }
    while requests.try_recv().is_ok() {}
    let _ = check("http:/a?b=c,host=shop.example", address).await;
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
    let has = |line: &str| request.lines().any(|other| other.eq_ignore_ascii_case(line));
    assert!(has("host: shop.example") && has("connection: close"), "{request}");
    let _ = check("http", address).await;
    let request = requests.recv().await.unwrap();
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
}

#[tokio::test]
async fn a_text_in_the_body_is_found_across_the_parts_of_a_chunked_answer() {
    let (address, _requests) =
        server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n")
            .await;
    assert_eq!(Ok(()), check("http,body=ready", address).await);
    assert!(check("http,body=readyy", address).await.is_err());
}

#[tokio::test]
async fn what_is_no_http_is_told() {
    let (address, _requests) = server(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    let error = check("http", address).await.unwrap_err();
    assert!(error.starts_with("no HTTP: "), "{error}");
    let (address, _requests) = server(b"").await;
    assert_eq!(Err("connection closed before an answer".to_owned()), check("http", address).await);
    let error = check("https", address).await.unwrap_err();
    assert!(error.contains("closed early") || error.contains("reset"), "{error}");
    let (address, _requests) = server(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let error = check("https", address).await.unwrap_err();
    assert!(error.starts_with("TLS: "), "{error}");
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_eq!(Err("timeout after 50ms".to_owned()), check("http,interval=1s,timeout=50ms", address).await);
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    assert_eq!(Err("timeout after 50ms".to_owned()), check("dns:a.example,timeout=50ms", address).await);
    drop(udp);
    assert_eq!(Err("connection refused".to_owned()), check("dns:a.example", address).await);
}

#[test]
fn what_this_host_cannot_do_is_not_the_targets_fault() {
    let fault = |errno: i32| Fault::from(io::Error::from_raw_os_error(errno));
    for errno in [libc::EMFILE, libc::EPERM, libc::EADDRNOTAVAIL] {
        assert!(matches!(fault(errno), Fault::Local(_)), "{errno}");
    }
    assert_eq!(Fault::target("no route to host"), fault(libc::EHOSTUNREACH));
    assert_eq!(Fault::target("network unreachable"), fault(libc::ENETUNREACH));
    assert_eq!(Fault::target("connection timed out"), fault(libc::ETIMEDOUT));
}
