//! `volumes ROOT DIRECTORY`: shows a directory of the host to the container twice, at /data and, read-only, at /frozen.

mod common;

use std::{fs, path::Path, process::ExitCode};

use common::{ID, Machine, Result, Share};
use serde_json::{Value, json};
use vm_launcher::guest_protocol::{api, boot::volume_path, mux::FIRST_STREAM};

const SCRIPT: &str = "
read text </frozen/from-host; echo \"the VM reads: $text\"
echo x 2>/dev/null >/frozen/new || echo 'the VM cannot write to /frozen'
echo written in the VM >/data/from-vm
";

fn main() -> ExitCode {
    common::main(volumes)
}

async fn volumes(args: &[&str]) -> Result<u8> {
    let [root, directory] = args else { return Err("usage: volumes ROOT DIRECTORY".into()) };
    let directory = Path::new(directory);
    fs::write(directory.join("from-host"), "written on the host\n")?;

    // Each volume has a number in its container, which says where it is in the share.
    let share = Share::new(root)?;
    share.show(directory, &volume_path(ID, 0), false)?;
    share.show(directory, &volume_path(ID, 1), true)?;
    let machine = Machine::boot(share).await?;

    let stdio = api::Stdio { stdout: FIRST_STREAM, ..Default::default() };
    let (stdout, _) = machine.guest.streams.open(stdio.stdout)?;
    let mounts = [volume("/data", 0), volume("/frozen", 1)];
    machine.start(&["/bin/sh", "-c", SCRIPT], &mounts, stdio).await?;
    print!("{}", common::text(stdout).await);
    let status = machine.wait(&common::process("")).await?;
    machine.end().await;
    print!("the host reads: {}", fs::read_to_string(directory.join("from-vm"))?);
    Ok(status)
}

/// A mount of the OCI spec. Its source is where the guest has the volume.
fn volume(destination: &str, number: usize) -> Value {
    let source = format!("/{}", volume_path(ID, number));
    json!({ "destination": destination, "type": "bind", "source": source, "options": ["bind", "nosuid", "nodev"] })
}
