use std::{fs, os::fd::AsFd, process::Command};

use nix::unistd::Uid;

use super::*;

/// Runs a shell command and returns how it ended and what it printed.
fn shell(spawn: impl FnOnce(Spawn) -> Spawn, command: &str) -> (ExitStatus, String) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let child = spawn(Spawn::new("/bin/sh").arg("-c").arg(command).fd(write, 1)).spawn().unwrap();
    let mut output = String::new();
    File::from(read).read_to_string(&mut output).unwrap();
    (child.wait().unwrap(), output)
}

#[test]
fn a_program_runs_with_its_arguments_and_no_environment() {
    let (status, output) =
        shell(|spawn| spawn.arg("zero").arg("a b"), "echo $1; tr '\\0' '\\n' </proc/self/environ; exit 7");
    assert_eq!(status, ExitStatus::Exited(7));
    assert_eq!(output.lines().next(), Some("a b"));
    assert!(!output.contains("HOME="), "{output}");
}

#[test]
fn a_stopped_program_dies_with_the_thread_that_started_it() {
    let start = |death_signal| {
        let spawn = Spawn { death_signal, ..Spawn::new("/bin/sleep").arg("60") };
        std::thread::spawn(|| {
            let child = spawn.spawn().unwrap();
            child.kill(Signal::SIGSTOP);
            child
        })
        .join()
        .unwrap()
    };
    assert_eq!(start(Some(Signal::SIGKILL)).wait().unwrap(), ExitStatus::Killed(libc::SIGKILL));
    let stays = start(None);
    assert!(!stays.pidfd().ends_within(std::time::Duration::ZERO).unwrap());
    stays.kill(Signal::SIGKILL);
    stays.wait().unwrap();
}

#[test]
fn only_the_given_descriptors_arrive() {
    let (read, _write) = pipe2(OFlag::empty()).unwrap();
    let leaked = read.as_fd().try_clone_to_owned().unwrap();
    let (_, output) = shell(|spawn| spawn.fd(read, 5), "cd /proc/self/fd && echo *");
    // One more is the shell's own, of the directory that it lists.
    let mut numbers: Vec<i32> = output.split_whitespace().filter_map(|fd| fd.parse().ok()).collect();
    numbers.retain(|&fd| fd != 3);
    assert_eq!(numbers, [0, 1, 2, 5], "{output}");
    drop(leaked);
}

#[test]
fn descriptors_may_swap_numbers() {
    let files = ["/etc/hostname", "/etc/passwd"].map(|path| OwnedFd::from(File::open(path).unwrap()));
    let [first, second] = files;
    let (a, b) = (first.as_raw_fd(), second.as_raw_fd());
    let (_, output) =
        shell(|spawn| spawn.fd(first, b).fd(second, a), &format!("readlink /proc/$$/fd/{a} /proc/$$/fd/{b}"));
    assert_eq!(output, "/etc/passwd\n/etc/hostname\n");
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let error = Spawn::new("/nonexistent/program").spawn().unwrap_err();
    assert_eq!(error.to_string(), "starting /nonexistent/program: execve");
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "No such file or directory (os error 2)"
    );
}

#[test]
fn an_oom_score_is_its_own_as_long_as_it_lives() {
    let child = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    child.set_oom_score_adj(321).unwrap();
    let file = format!("/proc/{}/oom_score_adj", child.pid());
    assert_eq!(fs::read_to_string(&file).unwrap(), "321\n");
    child.kill(Signal::SIGKILL);
    // A zombie has one, too; a pid that is free may be another's.
    child.wait().unwrap();
    child.set_oom_score_adj(322).unwrap();
}

#[tokio::test]
async fn any_number_may_wait_and_a_signal_is_told_apart() {
    let child = Spawn::new("/bin/sleep").arg("1000").spawn().unwrap();
    let (one, two) = (child.clone(), child.clone());
    let waiters =
        (tokio::spawn(async move { one.ended().await }), tokio::spawn(async move { two.ended().await }));
    tokio::task::yield_now().await;
    child.kill(Signal::SIGKILL);
    child.kill(Signal::SIGKILL);
    assert_eq!(waiters.0.await.unwrap().unwrap(), ExitStatus::Killed(9));
    assert_eq!(waiters.1.await.unwrap().unwrap(), ExitStatus::Killed(9));
    child.kill(Signal::SIGKILL);
}

#[test]
fn signals_are_as_a_new_process_expects() {
    let (_, output) = shell(|spawn| spawn, "grep -E '^Sig(Blk|Ign)' /proc/self/status");
    for line in output.lines() {
        assert!(line.ends_with("\t0000000000000000"), "{output}");
    }
}

#[test]
fn namespaces_are_made() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: making namespaces needs root");
        return;
    }
    let namespaces = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    let (status, output) = shell(|spawn| Spawn { namespaces, ..spawn }, "echo $$");
    assert_eq!((status, output.as_str()), (ExitStatus::Exited(0), "1\n"));
}

#[test]
fn a_program_cannot_change_its_file_when_that_is_mounted_read_only() {
    if !Uid::effective().is_root() {
        eprintln!("skipped: making namespaces needs root");
        return;
    }
    let exe = std::env::temp_dir().join(format!("linux-spawn-sh-{}", std::process::id()));
    // By another process: children of other tests would hold the file open for writing, and nobody could execute it.
    assert!(Command::new("cp").arg("/bin/sh").arg(&exe).status().unwrap().success());
    let chmod = |read_only_exe| {
        let namespaces = CloneFlags::CLONE_NEWNS;
        let made = |spawn| Spawn { exe: exe.clone(), namespaces, read_only_exe, ..spawn };
        shell(made, "chmod 700 /proc/$$/exe 2>&1; readlink /proc/$$/exe")
    };
    let (writable, read_only) = (chmod(false), chmod(true));
    fs::remove_file(&exe).unwrap();
    let path = format!("{}\n", exe.display());
    assert_eq!(writable, (ExitStatus::Exited(0), path.clone()));
    assert!(read_only.1.contains("Read-only file system") && read_only.1.ends_with(&path), "{read_only:?}");
    // The mount is the program's own.
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("linux-spawn-sh"));
}

#[test]
fn how_anothers_child_ends_is_known_until_it_is_reaped() {
    for (command, status) in [("exit 3", ExitStatus::Exited(3)), ("kill -9 $$", ExitStatus::Killed(9))] {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let command = format!("read line; {command}");
        let child = Spawn::new("/bin/sh").arg("-c").arg(&command).fd(read, 0).spawn().unwrap();
        let other = || Child::of_another(child.pidfd().try_clone().unwrap()).unwrap();
        let (early, late) = (other(), other());
        File::from(write).write_all(b"go\n").unwrap();
        assert_eq!(early.wait().unwrap(), status);
        assert_eq!(child.wait().unwrap(), status);
        assert_eq!(late.wait().unwrap(), ExitStatus::Unknown);
        assert_eq!(early.wait().unwrap(), status);
    }
}
