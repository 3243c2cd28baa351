//! A hostile container and the box's sockets: through TSI the guest's sockets become the vmm's, so what the vmm can
//! reach matters. It must reach no unix socket, abstract name or loopback service of the box.

use crate::ctx::Ctx;
use crate::scenario::{Outcome, Scenario};
use anyhow::{Context, Result, ensure};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

pub const SCENARIOS: &[Scenario] = &[Scenario::new("hostile-host-sockets", host_sockets)];

const ABSTRACT: &str = "krun-scenarios-target";

fn host_sockets(ctx: &Ctx) -> Result<Outcome> {
    let path = ctx.work("target.sock");
    let _by_path = UnixListener::bind(&path).context("listen on a path")?;
    let address = SocketAddr::from_abstract_name(ABSTRACT)?;
    let _by_name = UnixListener::bind_addr(&address).context("listen on an abstract name")?;
    let by_port = TcpListener::bind("127.0.0.1:0").context("listen on loopback")?;
    let port = by_port.local_addr()?.port();
    // They are there: the box itself reaches each of them.
    UnixStream::connect(&path).context("the path")?;
    UnixStream::connect_addr(&address).context("the abstract name")?;
    TcpStream::connect(("127.0.0.1", port)).context("the port")?;

    let script = format!(
        r#"
import errno, os, socket
PATH, PORT = {path:?}, {port}
os.makedirs(os.path.dirname(PATH), exist_ok=True)
os.makedirs("/run/containerd", exist_ok=True)
def attempt(title, family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(5)
            s.connect(address)
            print("REACHED", title)
    except OSError as e:
        print("refused", title, errno.errorcode.get(e.errno, e))
attempt("path", socket.AF_UNIX, PATH)
attempt("containerd", socket.AF_UNIX, "/run/containerd/containerd.sock")
attempt("abstract", socket.AF_UNIX, "\0{ABSTRACT}")
attempt("loopback", socket.AF_INET, ("127.0.0.1", PORT))
attempt("loopback by IPv6", socket.AF_INET6, ("::ffff:127.0.0.1", PORT))
attempt("any", socket.AF_INET, ("0.0.0.0", PORT))
# A service of the container's own is reachable: refusals above are not a network that does nothing.
server = socket.create_server(("127.0.0.1", 4711))
client = socket.create_connection(("127.0.0.1", 4711), 5)
peer, _ = server.accept()
client.sendall(b"own"); print("own service says", peer.recv(3).decode())
"#,
        path = path.display().to_string()
    );
    let output = ctx.python(&[], &ctx.id(""), &script).run()?.ok()?.has_line("own service says own")?;
    let text = output.stdout_text();
    ensure!(!text.contains("REACHED"), "a socket of the box answered: {output}");
    ensure!(text.matches("refused ").count() == 6, "six attempts were to be made: {output}");
    Ok(Outcome::Passed)
}
