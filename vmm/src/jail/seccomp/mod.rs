//! The system calls of a vmm. Any other kills it at once: only a vmm that a guest has taken over makes one. The kernel's log
//! names the call, and the launcher repeats that.

mod calls;
mod ioctls;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use guest_protocol::boot::UNCHANGED_OWNER;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use vm_launcher::Network;

use super::one_vm;

/// The flags of the C library's `pthread_create`: a thread in no new namespace. Source: glibc, createthread.c and
/// clone-internal.c.
const THREAD: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// "Leave it as it is", of setresuid(2).
const UNCHANGED: u32 = u32::MAX;

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Installs the filters for this thread and those that it will make.
pub fn install(network: &Network, console: bool, devices: bool) -> Result<()> {
    one_vm::expect(afterwards()?);
    for program in programs(network, console, devices)? {
        apply_filter(&program).context("seccomp")?;
    }
    Ok(())
}

/// The filter for the time after the VM was made, in addition to the others: there is neither a second VM nor another filter.
fn afterwards() -> Result<BpfProgram> {
    let another = all([is(1, one_vm::CREATE_VM)])?;
    let rules = Rules::from([(libc::SYS_ioctl, vec![another]), (libc::SYS_seccomp, Vec::new())]);
    filter(rules, SeccompAction::Allow, SeccompAction::KillProcess)
}

/// The filters, to be installed in this order. The kernel runs all, and the strictest answer counts.
fn programs(network: &Network, console: bool, devices: bool) -> Result<[BpfProgram; 3]> {
    // The flags of clone3 are in memory, where a filter cannot see them. Without it, the C library calls clone.
    let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3 = filter(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    // What guest-init asks for so that the guest's kernel tells whoever watches a file: the host does nothing, and answers that
    // it did. So it works on a read-only volume too, and leaves no trace in the file's times.
    let touch = all([is(2, UNCHANGED_OWNER), is(3, UNCHANGED_OWNER)])?;
    let touch = Rules::from([(libc::SYS_fchownat, vec![touch])]);
    let touch = filter(touch, SeccompAction::Allow, SeccompAction::Errno(0))?;
    let rules = rules(network, console, devices)?;
    Ok([no_clone3, touch, filter(rules, SeccompAction::KillProcess, SeccompAction::Allow)?])
}

fn filter(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> Result<BpfProgram> {
    Ok(SeccompFilter::new(rules, otherwise, on_match, TargetArch::x86_64)?.try_into()?)
}

fn rules(network: &Network, console: bool, devices: bool) -> Result<Rules> {
    let tsi = matches!(network, Network::Tsi);
    let mut rules = Rules::new();
    rules.extend(calls::ANY.map(|call| (call, Vec::new())));
    if tsi {
        rules.extend(calls::TSI.map(|call| (call, Vec::new())));
        // `reuse_address` and libkrun.
        let options = [libc::SO_REUSEADDR, libc::SO_REUSEPORT];
        let set = options.map(|option| all([is(1, libc::SOL_SOCKET as u32), is(2, option as u32)]));
        rules.insert(libc::SYS_setsockopt, set.into_iter().collect::<Result<_>>()?);
        let get = all([is(1, libc::SOL_SOCKET as u32), is(2, libc::SO_TYPE as u32)])?;
        rules.insert(libc::SYS_getsockopt, vec![get]);
    }
    rules.insert(libc::SYS_socket, sockets(tsi)?);
    rules.insert(libc::SYS_clone, vec![all([is(0, THREAD as u32)])?]);
    let requests = ioctls::allowed(network, console, devices);
    rules.insert(libc::SYS_ioctl, requests.iter().map(|&code| all([is(1, code)])).collect::<Result<_>>()?);
    let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    let commands = commands.map(|command| all([is(1, command as u32)]));
    rules.insert(libc::SYS_fcntl, commands.into_iter().collect::<Result<_>>()?);
    // No memory is ever made executable.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        rules.insert(call, vec![all([Ok(SeccompCondition::new(2, Dword, executable, 0)?)])?]);
    }
    rules.insert(libc::SYS_prctl, vec![all([is(0, libc::PR_SET_NAME as u32)])?]);
    // `afterwards`.
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC as u32);
    rules.insert(libc::SYS_seccomp, vec![all([is(0, operation), is(1, flags)])?]);
    // Reading a limit of its own.
    rules.insert(libc::SYS_prlimit64, vec![all([is(0, 0), is(2, 0)])?]);
    // Signals to its own threads: libkrun stops its vCPUs so.
    rules.insert(libc::SYS_tgkill, vec![all([is(0, std::process::id())])?]);
    // virtiofs makes files as the guest's users: the effective ids only.
    for call in [libc::SYS_setresuid, libc::SYS_setresgid] {
        rules.insert(call, vec![all([is(0, UNCHANGED), is(2, UNCHANGED)])?]);
    }
    Ok(rules)
}

/// The sockets that libkrun makes: of its vsock device, which connects to the socket of our parent (the only one that the
/// jail's root holds; an address without a path is of the vmm's own, empty or the pod's, network namespace); and with TSI
/// those of the guest, without raw ones.
fn sockets(tsi: bool) -> Result<Vec<SeccompRule>> {
    let mut kinds = vec![(libc::AF_UNIX, libc::SOCK_STREAM)];
    if tsi {
        for family in [libc::AF_INET, libc::AF_INET6] {
            kinds.extend([(family, libc::SOCK_STREAM), (family, libc::SOCK_DGRAM)]);
        }
    }
    kinds.iter().map(|&(family, kind)| all([is(0, family as u32), is(1, kind as u32), is(2, 0)])).collect()
}

/// An argument's lower half is `value`; all of these arguments are of 32 bits.
fn is(argument: u8, value: u32) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, Dword, SeccompCmpOp::Eq, value.into())?)
}

fn all<const N: usize>(conditions: [Result<SeccompCondition>; N]) -> Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_>>()?)?)
}

#[cfg(test)]
mod tests;
