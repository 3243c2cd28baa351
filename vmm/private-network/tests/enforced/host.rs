//! The host that the tests make, beside an Internet.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    sync::Once,
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RData, Record, RecordType, rdata},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};
use private_network::{Policy, PrivateNetwork};

/// How long something waits that comes within milliseconds, unless the firewall drops it.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits for what the firewall drops.
pub const DROPPED: Duration = Duration::from_millis(300);

/// The host's address towards the Internet, and the Internet's first one.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// More of the Internet's addresses.
pub const LISTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
pub const UNLISTED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const NAMED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// A network namespace.
pub struct Namespace(pub File);

impl Namespace {
    pub fn new() -> Namespace {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Namespace(made.join().unwrap())
    }

    pub fn of(network: &PrivateNetwork) -> Namespace {
        Namespace(File::open(network.netns_path()).unwrap())
    }

    /// Joins its eth0 to a new interface here.
    pub fn join(&self, name: &str) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        ip(&format!("link add {name} type veth peer name eth0 netns {path}"));
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Connects from here, and answers which address the server sees.
    pub fn connect(&self, to: Ipv4Addr, port: u16) -> io::Result<IpAddr> {
        self.run(|| connect(to, port))
    }

    /// Shows that nothing answers there.
    pub fn gets_nothing(&self, to: Ipv4Addr, port: u16) {
        let error = self.run(|| TcpStream::connect_timeout(&(to, port).into(), DROPPED)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{to}:{port}");
    }

    /// What the gateway's DNS server says of a name.
    pub fn resolve(&self, gateway: Ipv4Addr, name: &str) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        self.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&message.to_vec().unwrap(), (gateway, 53)).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            Message::from_vec(&buffer[..length]).unwrap()
        })
    }
}

pub fn connect(to: Ipv4Addr, port: u16) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&(to, port).into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut seen = String::new();
    stream.read_to_string(&mut seen)?;
    Ok(seen.parse().unwrap())
}

/// Tells every client its address, until the test program ends.
pub fn serve(port: u16) {
    serve_at(Ipv4Addr::UNSPECIFIED, port);
}

pub fn serve_at(address: Ipv4Addr, port: u16) {
    let listener = TcpListener::bind((address, port)).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = write!(stream, "{}", from.ip());
        }
    });
}

/// A resolver that knows two names, until the test program ends.
pub fn serve_names() {
    let socket = UdpSocket::bind((INTERNET, 53)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = message.queries[0].name().clone();
            let address = if name.to_ascii() == "near.example." { HOST } else { NAMED };
            message.add_answer(Record::from_rdata(name, 60, RData::A(rdata::A(address))));
            let _ = socket.send_to(&message.to_vec().unwrap(), from);
        }
    });
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What is of a VM on this host.
pub fn remains() -> Vec<String> {
    let all = output("ip", &["-br", "link"]) + &output("nft", &["list", "tables"]);
    all.lines().filter(|line| line.contains("krun")).map(str::to_owned).collect()
}

pub fn can_run() -> bool {
    let missing = ["nft", "ip"].into_iter().find(|tool| Command::new(tool).arg("-V").output().is_err());
    if !Uid::effective().is_root() {
        println!("skipped: making network namespaces needs root");
    } else if let Some(tool) = missing {
        println!("skipped: {tool} is not installed");
    } else {
        return true;
    }
    false
}

/// Runs `test` on a new host beside a new Internet, with a directory for files.
pub fn on_a_host(test: impl FnOnce(&Namespace, &Path) + Send + 'static) {
    static LOG: Once = Once::new();
    LOG.call_once(|| log::set_logger(&Stderr).map(|()| log::set_max_level(log::LevelFilter::Warn)).unwrap());
    if !can_run() {
        return;
    }
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
        let internet = Namespace::new();
        ip("link set lo up");
        internet.join("uplink");
        ip(&format!("addr add {HOST}/24 dev uplink"));
        ip("link set uplink up");
        ip(&format!("route add default via {INTERNET}"));
        internet.run(|| {
            ip("link set lo up");
            ip(&format!("addr add {INTERNET}/24 dev eth0"));
            ip("link set eth0 up");
            for address in [LISTED, UNLISTED, NAMED, METADATA] {
                ip(&format!("addr add {address}/32 dev lo"));
            }
            serve(80);
            serve(443);
            serve_names();
        });
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {INTERNET}\n")).unwrap();
        mount(Some(&resolv_conf), "/etc/resolv.conf", none, MsFlags::MS_BIND, none).unwrap();
        test(&internet, dir.path());
    });
    host.join().unwrap();
}

/// Shows what the network warns of.
pub struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        eprintln!("{}", record.args());
    }

    fn flush(&self) {}
}

/// Does `work` while the VM's queries are answered.
pub fn with_dns(network: &PrivateNetwork, work: impl FnOnce()) {
    let serving = network.serve_dns();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    ended = serving => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let stop = stop;
        work();
        drop(stop);
    });
}

pub fn refused(result: io::Result<IpAddr>) {
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

pub fn policy(nets: &[&str], hosts: &[&str]) -> Policy {
    Policy {
        deny_all: false,
        nets: nets.iter().map(|text| text.parse().unwrap()).collect(),
        hosts: hosts.iter().map(|text| text.parse().unwrap()).collect(),
    }
}
