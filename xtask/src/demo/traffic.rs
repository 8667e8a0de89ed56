//! The demo's own clients, where a number is wanted and not only an answer.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Namespace;

/// How often something was done, and how long it took each time.
#[derive(Clone, Debug)]
pub struct Timings {
    sorted: Vec<Duration>,
    elapsed: Duration,
}

impl Timings {
    fn new(mut each: Vec<Duration>, elapsed: Duration) -> Self {
        each.sort_unstable();
        Self { sorted: each, elapsed }
    }

    /// Number of times.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Times a second.
    pub fn rate(&self) -> f64 {
        self.sorted.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// A quantile in microseconds.
    pub fn micros(&self, quantile: f64) -> f64 {
        let index = (self.sorted.len() as f64 * quantile) as usize;
        self.sorted.get(index.min(self.sorted.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
            * 1e6
    }
}

/// `count` HTTP requests, each over a connection of its own, by two clients at a time.
pub fn http(client: &Namespace, server: SocketAddr, count: usize) -> Result<Timings> {
    const CLIENTS: usize = 2;
    let began = Instant::now();
    let each = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    client.enter(|| {
                        (0..count / CLIENTS).map(|_| http_request(server)).collect::<Result<Vec<Duration>>>()
                    })?
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(Timings::new(each.concat(), began.elapsed()))
}

fn http_request(server: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::with_capacity(512);
    stream.read_to_end(&mut answer).with_context(|| format!("no answer from {server}"))?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{server} did not answer 200");
    Ok(began.elapsed())
}

/// Echo round trips, one after the other.
#[derive(Debug)]
pub struct Echoes {
    /// Those that came back.
    pub timings: Timings,
    /// Those that did not.
    pub lost: usize,
}

/// UDP packets to an echo service, each sent when the one before has come back as it was.
pub fn echo(client: &Namespace, server: SocketAddr, length: Duration, payload: usize) -> Result<Echoes> {
    let socket = connect_udp(client, server)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let (mut sent, mut received) = (vec![0x5a; payload], vec![0; payload + 1]);
    let (began, mut each, mut lost) = (Instant::now(), Vec::new(), 0);
    let mut number = 0_u64;
    while began.elapsed() < length {
        number += 1;
        sent[..8].copy_from_slice(&number.to_be_bytes());
        let start = Instant::now();
        socket.send(&sent)?;
        loop {
            match socket.recv(&mut received) {
                Ok(size) if size == sent.len() && received[..size] == sent => {
                    each.push(start.elapsed());
                    break;
                }
                // A late one.
                Ok(size) if size == sent.len() => {}
                Ok(size) => anyhow::bail!("{server} sent {size} bytes back instead of {}", sent.len()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    break;
                }
                Err(error) => return Err(error).context(format!("echo from {server}")),
            }
        }
    }
    ensure!(!each.is_empty(), "no echo at all from {server}");
    Ok(Echoes { timings: Timings::new(each, began.elapsed()), lost })
}

/// Packets a second that an echo service answers with so many on the way at a time.
pub fn echo_rate(client: &Namespace, server: SocketAddr, length: Duration, window: usize) -> Result<f64> {
    let socket = connect_udp(client, server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (packet, mut buffer) = ([0x5a; 64], [0; 128]);
    let (began, mut received) = (Instant::now(), 0_u64);
    for _ in 0..window {
        socket.send(&packet)?;
    }
    while began.elapsed() < length {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                received += 1;
                socket.send(&packet)?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                for _ in 0..window {
                    socket.send(&packet)?;
                }
            }
            Err(error) => return Err(error).context(format!("echo from {server}")),
        }
    }
    Ok(received as f64 / began.elapsed().as_secs_f64())
}

fn connect_udp(client: &Namespace, server: SocketAddr) -> Result<UdpSocket> {
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.enter(|| UdpSocket::bind(any))??;
    socket.connect(server)?;
    Ok(socket)
}

/// True if a TCP connection can be made within the time.
pub fn connects(client: &Namespace, server: SocketAddr, timeout: Duration) -> Result<bool> {
    client.enter(|| TcpStream::connect_timeout(&server, timeout).is_ok())
}

/// A thread that serves until this value goes.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A UDP echo server like any other: receive, send back.
    pub fn echo(namespace: &Namespace, listen: SocketAddr) -> Result<Self> {
        let socket = namespace
            .enter(|| UdpSocket::bind(listen))?
            .with_context(|| format!("cannot listen on {listen}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self::start(move |stop| {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((size, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..size], from);
                }
            }
        }))
    }

    /// A TCP server that takes connections and ends them.
    pub fn tcp(namespace: &Namespace, listen: SocketAddr) -> Result<Self> {
        let listener = namespace
            .enter(|| TcpListener::bind(listen))?
            .with_context(|| format!("cannot listen on {listen}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self::start(move |stop| {
            while !stop.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }))
    }

    fn start(work: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        Self { stop, thread: Some(std::thread::spawn(move || work(&flag))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
