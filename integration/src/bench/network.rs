//! Bytes and round trips between the box and a container, through one and the same cable: runc's as it is, a VM's NIC, and
//! the sockets that a VM without a NIC makes in the namespace.

use super::table::{Table, Unit};
use crate::command::Running;
use crate::ctx::{Ctx, Runtime};
use crate::undo;
use crate::veth::{self, TASK};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Bytes per measured transfer, in one direction.
const AMOUNT: usize = 2 << 20;
const CHUNK: usize = 64 << 10;
const ROUND_TRIPS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(600);

/// Takes bytes to their end and says one; gives as many as asked for; answers each byte. One caller at a time.
const PEER: &str = "import socket
take, give, answer = (socket.create_server(('', port)) for port in (7000, 7001, 7002))
print('ready', flush=True)
buffer, block = bytearray(1 << 16), bytes(1 << 16)
while True:
    c = take.accept()[0]
    while c.recv_into(buffer): pass
    c.sendall(b'.'); c.close()
    c = give.accept()[0]
    for _ in range(int(c.recv(32)) >> 16): c.sendall(block)
    c.close()
    c = answer.accept()[0]; c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := c.recv(1): c.sendall(data)
    c.close()";

/// One column's results, in seconds or bytes per second, a value per run.
#[derive(Default)]
struct Measured {
    into: Vec<f64>,
    out_of: Vec<f64>,
    round_trip: Vec<f64>,
}

/// Each mode in a container of its own; the first of its runs is thrown away.
pub fn run(runs: u32) -> Result<ExitCode> {
    veth::make()?;
    let columns = ["runc", "krun, tap", "krun, tsi"];
    let krun = |mode| (Runtime::Krun, Some(mode));
    let measured: Result<Vec<_>> = [(Runtime::Runc, None), krun("tap"), krun("tsi")]
        .into_iter()
        .map(|(runtime, mode)| in_mode(&Ctx::new(runtime, "bench"), mode, runs))
        .collect();
    undo::run_all()?;
    let measured: [Measured; 3] = measured?.try_into().ok().context("three columns")?;

    let mut table = Table::new(&format!("{runs} runs of {} MiB", AMOUNT >> 20), columns);
    let column = |of: fn(&Measured) -> &Vec<f64>| measured.each_ref().map(|m| of(m).as_slice());
    table.row("TCP into the container", Unit::MebibytesPerSecond, column(|m| &m.into));
    table.row("TCP out of the container", Unit::MebibytesPerSecond, column(|m| &m.out_of));
    table.row("TCP round trip of a byte", Unit::Microseconds, column(|m| &m.round_trip));
    print!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn in_mode(ctx: &Ctx, mode: Option<&str>, runs: u32) -> Result<Measured> {
    let id = ctx.id(mode.unwrap_or("runc"));
    let flags = veth::flags(mode);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut peer = ctx.python(&flags, &id, PEER).timeout(PATIENCE.as_secs()).spawn()?;
    let measured = measure(&mut peer, runs);
    ctx.kill(&id, "SIGKILL")?.ok()?;
    peer.finish()?;
    eprintln!("bench: {id} done");
    measured.with_context(|| id)
}

fn measure(peer: &mut Running, runs: u32) -> Result<Measured> {
    peer.wait_for_stdout("ready")?;
    let mut measured = Measured::default();
    for round in 0..=runs {
        let values = (AMOUNT as f64 / into()?, AMOUNT as f64 / out_of()?, round_trip()?);
        if round > 0 {
            measured.into.push(values.0);
            measured.out_of.push(values.1);
            measured.round_trip.push(values.2);
        }
    }
    Ok(measured)
}

fn call(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((TASK[0], port)).with_context(|| format!("call port {port}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Seconds until the container has all of it.
fn into() -> Result<f64> {
    let mut stream = call(7000)?;
    let chunk = vec![0; CHUNK];
    let begun = Instant::now();
    (0..AMOUNT / CHUNK).try_for_each(|_| stream.write_all(&chunk))?;
    stream.shutdown(Shutdown::Write)?;
    stream.read_exact(&mut [0])?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds until the box has all of it.
fn out_of() -> Result<f64> {
    let mut stream = call(7001)?;
    let mut chunk = vec![0; CHUNK];
    let begun = Instant::now();
    stream.write_all(AMOUNT.to_string().as_bytes())?;
    let mut came = 0;
    while let length @ 1.. = stream.read(&mut chunk)? {
        came += length;
    }
    ensure!(came == AMOUNT, "{came} bytes came of {AMOUNT}");
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds of one round trip, on average.
fn round_trip() -> Result<f64> {
    let mut stream = call(7002)?;
    let begun = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream.write_all(b".")?;
        stream.read_exact(&mut [0])?;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(ROUND_TRIPS))
}
