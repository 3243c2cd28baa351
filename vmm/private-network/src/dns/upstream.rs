//! The host's resolvers.

use std::{
    fs::File,
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Transport, answer::Answer, query::Query};

/// How long a VM waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The resolvers that are asked. Source: resolv.h, `MAXNS`.
const MAX_SERVERS: usize = 3;

/// The longest resolv.conf that is read.
const MAX_FILE: u64 = 1 << 16;

/// The host's resolvers, as its resolv.conf has them when a query comes.
pub struct Upstreams {
    resolv_conf: PathBuf,
    port: u16,
}

impl Upstreams {
    /// Those of a file.
    pub fn of(resolv_conf: PathBuf) -> Upstreams {
        Upstreams { resolv_conf, port: 53 }
    }

    /// Asks one after the other.
    ///
    /// # Errors
    /// When none answers in time.
    pub async fn ask(&self, query: &Query, transport: Transport) -> io::Result<Answer> {
        let servers = self.servers()?;
        let each = PATIENCE / servers.len() as u32;
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for server in servers {
            let asked = async {
                match transport {
                    Transport::Udp => by_udp(server, query).await,
                    Transport::Tcp => by_tcp(server, query).await,
                }
            };
            match timeout(each, asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => last = io::Error::other(format!("resolver {server}: {error}")),
                Err(_) => last = io::Error::other(format!("resolver {server} did not answer in time")),
            }
        }
        Err(last)
    }

    fn servers(&self) -> io::Result<Vec<SocketAddr>> {
        let mut text = Vec::new();
        let failed = |e: io::Error| io::Error::other(format!("{}: {e}", self.resolv_conf.display()));
        File::open(&self.resolv_conf)
            .and_then(|file| file.take(MAX_FILE).read_to_end(&mut text))
            .map_err(failed)?;
        let mut servers: Vec<_> = String::from_utf8_lossy(&text)
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
            .filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok())
            .map(|address| SocketAddr::new(address, self.port))
            .take(MAX_SERVERS)
            .collect();
        if servers.is_empty() {
            // Source: resolv.conf(5).
            servers.push((Ipv4Addr::LOCALHOST, self.port).into());
        }
        Ok(servers)
    }
}

async fn by_udp(server: SocketAddr, query: &Query) -> io::Result<Answer> {
    // A new socket has a new port, which whoever would forge an answer must guess.
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let message = query.upstream();
    socket.send(&message.to_vec().map_err(io::Error::other)?).await?;
    let mut bytes = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut bytes).await?;
        if let Some(answer) = Answer::read(bytes[..length].to_vec(), message.metadata.id, query.question()) {
            return Ok(answer);
        }
    }
}

async fn by_tcp(server: SocketAddr, query: &Query) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let message = query.upstream();
    write(&mut stream, &message.to_vec().map_err(io::Error::other)?).await?;
    let bytes = read(&mut stream, usize::from(u16::MAX)).await?;
    let answer = Answer::read(bytes, message.metadata.id, query.question());
    answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it answers something else"))
}

/// Writes a message with its length. Source: RFC 1035, 4.2.2.
pub async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

/// Reads a message with its length, of `max` bytes at most.
pub async fn read(stream: &mut TcpStream, max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
pub mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::dns::{answer::tests as answers, query::tests::bytes};

    /// The resolver at 127.0.0.1 and this port. The file is removed with its directory.
    pub fn local(port: u16) -> (Upstreams, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        (Upstreams { resolv_conf, port }, dir)
    }

    #[test]
    fn resolvers_are_read_as_others_read_them() {
        let (upstreams, _dir) = local(53);
        let servers = |text: &str| {
            std::fs::write(&upstreams.resolv_conf, text).unwrap();
            upstreams.servers().unwrap().iter().map(|server| server.ip().to_string()).collect::<Vec<_>>()
        };
        let text = "# nameserver 1.1.1.1\nsearch a.example\n nameserver\t10.0.0.1 # x\nnameserver fd00::1\nnameserver x\n";
        assert_eq!(servers(text), ["10.0.0.1", "fd00::1"]);
        assert_eq!(servers(&"nameserver 10.0.0.1\n".repeat(4)).len(), MAX_SERVERS);
        assert_eq!(servers(""), ["127.0.0.1"]);
    }

    /// Answers queries that come by UDP to `address`, and then one that comes by TCP.
    fn serve(address: Ipv4Addr) -> u16 {
        use std::{
            io::{Read as _, Write as _},
            net::{TcpListener, UdpSocket},
        };
        let tcp = TcpListener::bind((address, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        let udp = UdpSocket::bind((address, port)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = udp.recv_from(&mut buffer).unwrap();
            udp.send_to(&answers::answer(&buffer[..length], vec![]), from).unwrap();
            let mut stream = tcp.accept().unwrap().0;
            let length = stream.read(&mut buffer).unwrap();
            let answer = answers::answer(&buffer[2..length], vec![]);
            stream.write_all(&[&(answer.len() as u16).to_be_bytes(), answer.as_slice()].concat()).unwrap();
        });
        port
    }

    #[tokio::test]
    async fn the_next_resolver_is_asked_when_one_fails() {
        let (mut upstreams, _dir) = local(serve(Ipv4Addr::new(127, 0, 0, 2)));
        let query = Query::read(&bytes("a.example.", RecordType::A)).ok().unwrap();
        // Nobody listens at the first.
        std::fs::write(&upstreams.resolv_conf, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n").unwrap();
        upstreams.ask(&query, Transport::Udp).await.unwrap();
        upstreams.ask(&query, Transport::Tcp).await.unwrap();
        upstreams.resolv_conf.set_file_name("absent");
        let error = upstreams.ask(&query, Transport::Udp).await.err().unwrap().to_string();
        assert!(error.contains("absent"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_is_not_waited_for_long() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (upstreams, _dir) = local(silent.local_addr().unwrap().port());
        let query = Query::read(&bytes("a.example.", RecordType::A)).ok().unwrap();
        let began = tokio::time::Instant::now();
        let error = upstreams.ask(&query, Transport::Udp).await.err().unwrap().to_string();
        assert!(error.contains("127.0.0.1") && error.contains("in time"), "{error}");
        assert!(began.elapsed() <= PATIENCE + Duration::from_millis(10));
    }
}
