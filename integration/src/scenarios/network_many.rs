//! Much at once and much in all: connections, bytes, interfaces. Each in every mode that gives a container a network of its
//! own.

use super::network_tap::called;
use crate::crc32::{crc32, noise};
use crate::ctx::{BUSYBOX, Ctx, DEBIAN};
use crate::procs;
use crate::scenario::{Outcome, Scenario};
use crate::veth::{self, BOX, TASK};
use crate::wait::until_true;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("network-connections", connections).long().image(DEBIAN).timeout(900),
    Scenario::new("network-256-mb", megabytes).long().image(DEBIAN).timeout(600),
    Scenario::new("network-interfaces", interfaces).long(),
];

const PATIENCE: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 500;
const IN_SEQUENCE: usize = 2000;

/// The flags of a container in the namespace of [`veth`], for each mode that it can have there.
fn modes(ctx: &Ctx) -> Vec<(&'static str, Vec<String>)> {
    if ctx.krun() {
        ["tap", "tsi"].map(|mode| (mode, veth::flags(Some(mode)))).into()
    } else {
        vec![("runc", veth::flags(None))]
    }
}

/// Answers what it is asked at 7011; at each line of its input calls the box so often, at once or one after the other.
const CALLER: &str = "import asyncio, socket, sys, threading
async def answer(reader, writer):
    writer.write(await reader.read(1)); await writer.drain(); writer.close()
async def serve():
    async with await asyncio.start_server(answer, '', 7011, backlog=1024) as server:
        print('ready', flush=True)
        await server.serve_forever()
threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
def ask(connection):
    connection.sendall(b'?')
    assert connection.recv(1) == b'?'
for line in sys.stdin:
    how, number = line.split()
    def call(): return socket.create_connection((sys.argv[1], 7010), 120)
    if how == 'together':
        everybody = [call() for _ in range(int(number))]
        for connection in everybody: ask(connection)
        for connection in everybody: connection.close()
    else:
        for _ in range(int(number)):
            with call() as connection: ask(connection)
    print(how, 'done', flush=True)";

/// Hundreds of connections at once and thousands in all, out and in; the vmm keeps none of their sockets.
fn connections(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    let listener = TcpListener::bind((BOX[0], 7010)).context("listen in the box")?;
    thread::spawn(move || listener.incoming().flatten().for_each(|c| drop(thread::spawn(move || echo(c)))));
    for (mode, flags) in modes(ctx) {
        many(ctx, mode, &flags).with_context(|| format!("network = {mode}"))?;
    }
    Ok(Outcome::Passed)
}

fn many(ctx: &Ctx, mode: &str, flags: &[String]) -> Result<()> {
    let id = ctx.id(mode);
    let flags: Vec<_> = ["--rm"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let command = ["python3", "-c", CALLER, BOX[0]];
    let mut container = ctx.run(&flags, DEBIAN, &id, &command).hold_stdin().timeout(800).spawn()?;
    container.wait_for_stdout("ready")?;
    container.say("sequence 1\n")?;
    container.wait_for_stdout("sequence done")?;
    let before = sockets(ctx, &id)?;

    container.say(&format!("together {AT_ONCE}\n"))?;
    container.wait_for_stdout("together done")?;
    // libkrun's TSI loses the bytes of a few of 500 that come in at once.
    let at_once = if mode == "tsi" { 200 } else { AT_ONCE };
    let calls: Result<Vec<_>> = (0..at_once).map(|_| call()).collect();
    calls?.into_iter().try_for_each(ask)?;

    container.say(&format!("sequence {IN_SEQUENCE}\n"))?;
    container.wait_for_stdout("sequence done\ntogether done\nsequence done")?;
    (0..IN_SEQUENCE / 10).try_for_each(|_| ask(call()?))?;
    let mut open = 0;
    until_true("the vmm to close its sockets", PATIENCE, || {
        open = sockets(ctx, &id)?;
        Ok(open <= before)
    })
    .with_context(|| format!("{before} sockets before, {open} now"))?;
    container.finish()?.ok()?;
    Ok(())
}

/// How many sockets the vmm has open; for runc, none.
fn sockets(ctx: &Ctx, id: &str) -> Result<usize> {
    if !ctx.krun() {
        return Ok(0);
    }
    let folder = format!("/proc/{}/fd", procs::vmm_of(id)?.pid);
    // One that is closed meanwhile cannot be read.
    let links = fs::read_dir(&folder).with_context(|| folder.clone())?.flatten();
    Ok(links
        .filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
        .count())
}

fn echo(mut connection: TcpStream) {
    let mut byte = [0];
    while connection.read_exact(&mut byte).and_then(|()| connection.write_all(&byte)).is_ok() {}
}

fn call() -> Result<TcpStream> {
    let connection = TcpStream::connect((TASK[0], 7011)).context("call the container")?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn ask(mut connection: TcpStream) -> Result<()> {
    connection.write_all(b"?")?;
    let mut answer = [0];
    connection.read_exact(&mut answer).context("the container's answer")?;
    ensure!(answer == *b"?", "the container answers {answer:?}");
    Ok(())
}

/// Bytes of one block, and how many of them make 256 MiB.
const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 256;

/// Takes bytes to their end and says their checksum; then sends as many blocks to whoever calls, and says theirs.
const CARRIER: &str = "import os, socket, sys, zlib
taker, giver = (socket.create_server(('', port)) for port in (7012, 7013))
print('ready', flush=True)
connection, total = taker.accept()[0], 0
while data := connection.recv(1 << 16): total = zlib.crc32(data, total)
print('took', total, flush=True)
connection, total, block = giver.accept()[0], 0, os.urandom(1 << 20)
for _ in range(256):
    connection.sendall(block); total = zlib.crc32(block, total)
connection.close()
print('gave', total, flush=True)";

/// A quarter of a gibibyte each way, checksummed on both sides.
fn megabytes(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    for (mode, flags) in modes(ctx) {
        carry(ctx, mode, &flags).with_context(|| format!("network = {mode}"))?;
    }
    Ok(Outcome::Passed)
}

fn carry(ctx: &Ctx, mode: &str, flags: &[String]) -> Result<()> {
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut container = ctx.python(&flags, &ctx.id(mode), CARRIER).timeout(500).spawn()?;
    container.wait_for_stdout("ready")?;
    let block = noise(BLOCK);
    let mut connection = TcpStream::connect((TASK[0], 7012)).context("call the taker")?;
    (0..BLOCKS).try_for_each(|_| connection.write_all(&block)).context("send")?;
    connection.shutdown(Shutdown::Write)?;
    container.wait_for_stdout(&format!("took {}\n", crc32(&block.repeat(BLOCKS))))?;

    let mut given = Vec::new();
    TcpStream::connect((TASK[0], 7013)).context("call the giver")?.read_to_end(&mut given)?;
    ensure!(given.len() == BLOCK * BLOCKS, "{} bytes came", given.len());
    container.wait_for_stdout(&format!("gave {}\n", crc32(&given)))?;
    container.finish()?.ok()?;
    Ok(())
}

/// A second interface becomes a second NIC: both have their addresses, and both carry a connection.
fn interfaces(ctx: &Ctx) -> Result<Outcome> {
    veth::make()?;
    veth::second_cable()?;
    let namespace = format!("--with-ns=network:{}", veth::PATH);
    let listeners = [BOX[0], veth::SECOND_BOX].map(|address| TcpListener::bind((address, 7014)));
    let script = format!(
        "ip -o -4 address | awk '$2 != \"lo\" {{ print $2, $4 }}'; echo first | nc {} 7014; echo second | nc {} 7014",
        BOX[0],
        veth::SECOND_BOX
    );
    let mut container =
        ctx.run(&["--rm", &namespace], BUSYBOX, &ctx.id(""), &["sh", "-c", &script]).spawn()?;
    for (listener, word) in listeners.into_iter().zip(["first\n", "second\n"]) {
        let answer = called(&listener.context("listen in the box")?)
            .with_context(|| String::from_utf8_lossy(&container.stderr_now()).into_owned())?;
        ensure!(answer == word, "{word:?} was expected, {answer:?} came");
    }
    container.wait_for_stdout("\n")?;
    container.finish()?.ok()?.printed(&format!("eth0 {}/24\neth1 {}/24\n", TASK[0], veth::SECOND_TASK))?;
    Ok(Outcome::Passed)
}
