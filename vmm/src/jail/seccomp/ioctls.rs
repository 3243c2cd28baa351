//! The ioctl requests of a vmm. Source: linux/kvm.h, linux/if_tun.h and asm-generic/ioctls.h; which of them libkrun 1.19.7
//! makes is in krun-vmm's vstate.rs and builder.rs, krun-arch, krun-devices' kvmioapic.rs and net/tap.rs.

use kvm_bindings as kvm;
use vm_launcher::Network;

/// `KVMIO` of linux/kvm.h, and the type of if_tun.h.
const KVM: u32 = 0xae;
const TUN: u32 = b'T' as u32;

/// Directions of asm-generic/ioctl.h.
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of asm-generic/ioctl.h for a structure `T`.
const fn request<T>(direction: u32, kind: u32, number: u32) -> u32 {
    direction << 30 | (size_of::<T>() as u32) << 16 | kind << 8 | number
}

const KVM_REQUESTS: [u32; 28] = [
    // KVM_RUN is by far the most frequent, and comes first.
    request::<()>(NONE, KVM, 0x80),
    // KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_MSR_INDEX_LIST, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE,
    // KVM_GET_SUPPORTED_CPUID.
    request::<()>(NONE, KVM, 0x00),
    request::<()>(NONE, KVM, 0x01),
    request::<kvm::kvm_msr_list>(READ | WRITE, KVM, 0x02),
    request::<()>(NONE, KVM, 0x03),
    request::<()>(NONE, KVM, 0x04),
    request::<kvm::kvm_cpuid2>(READ | WRITE, KVM, 0x05),
    // KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, KVM_SET_TSS_ADDR.
    request::<()>(NONE, KVM, 0x41),
    request::<kvm::kvm_userspace_memory_region>(WRITE, KVM, 0x46),
    request::<()>(NONE, KVM, 0x47),
    // KVM_CREATE_IRQCHIP, KVM_IRQ_LINE, KVM_SET_GSI_ROUTING, KVM_REINJECT_CONTROL, KVM_IRQFD, KVM_CREATE_PIT2,
    // KVM_IOEVENTFD.
    request::<()>(NONE, KVM, 0x60),
    request::<kvm::kvm_irq_level>(WRITE, KVM, 0x61),
    request::<kvm::kvm_irq_routing>(WRITE, KVM, 0x6a),
    request::<()>(NONE, KVM, 0x71),
    request::<kvm::kvm_irqfd>(WRITE, KVM, 0x76),
    request::<kvm::kvm_pit_config>(WRITE, KVM, 0x77),
    request::<kvm::kvm_ioeventfd>(WRITE, KVM, 0x79),
    // KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_FPU, KVM_SET_FPU,
    // KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_SET_CPUID2.
    request::<kvm::kvm_regs>(READ, KVM, 0x81),
    request::<kvm::kvm_regs>(WRITE, KVM, 0x82),
    request::<kvm::kvm_sregs>(READ, KVM, 0x83),
    request::<kvm::kvm_sregs>(WRITE, KVM, 0x84),
    request::<kvm::kvm_msrs>(READ | WRITE, KVM, 0x88),
    request::<kvm::kvm_msrs>(WRITE, KVM, 0x89),
    request::<kvm::kvm_fpu>(READ, KVM, 0x8c),
    request::<kvm::kvm_fpu>(WRITE, KVM, 0x8d),
    request::<kvm::kvm_lapic_state>(READ, KVM, 0x8e),
    request::<kvm::kvm_lapic_state>(WRITE, KVM, 0x8f),
    request::<kvm::kvm_cpuid2>(WRITE, KVM, 0x90),
];

/// TUNSETIFF, TUNSETOFFLOAD, TUNSETVNETHDRSZ: the three that libkrun makes to attach to a tap. Those that would change the
/// tap's owner, persistence or filter are not among them.
const TAP_REQUESTS: [u32; 3] = [
    request::<libc::c_int>(WRITE, TUN, 202),
    request::<libc::c_uint>(WRITE, TUN, 208),
    request::<libc::c_int>(WRITE, TUN, 216),
];

/// A console's mode (the second pair since glibc 2.42) and its size. TIOCSTI, which types into a terminal, is not among them.
const CONSOLE_REQUESTS: [u32; 5] = [
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCGETS2 as u32,
    libc::TCSETS2 as u32,
    libc::TIOCGWINSZ as u32,
];

/// BLKSSZGET and BLKGETSIZE64, which ask a block device for its sizes. Source: linux/fs.h.
const DEVICE_REQUESTS: [u32; 2] = [0x1268, request::<u64>(READ, 0x12, 114)];

/// The standard library's `set_nonblocking`.
const OTHERS: [u32; 1] = [libc::FIONBIO as u32];

/// All requests that a vmm makes.
pub fn allowed(network: &Network, console: bool, devices: bool) -> Vec<u32> {
    let mut allowed = KVM_REQUESTS.to_vec();
    if matches!(network, Network::Tap(_)) {
        allowed.extend(TAP_REQUESTS);
    }
    if console {
        allowed.extend(CONSOLE_REQUESTS);
    }
    if devices {
        allowed.extend(DEVICE_REQUESTS);
    }
    allowed.extend(OTHERS);
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_headers() {
        // As strace prints them: KVM_RUN, KVM_SET_USER_MEMORY_REGION, KVM_IRQFD, KVM_SET_CPUID2.
        for number in [0xae80, 0x4020_ae46, 0x4020_ae76, 0x4008_ae90] {
            assert!(KVM_REQUESTS.contains(&number), "{number:x}");
        }
        assert_eq!(
            TAP_REQUESTS.map(u64::from),
            [libc::TUNSETIFF, libc::TUNSETOFFLOAD, libc::TUNSETVNETHDRSZ]
        );
    }
}
