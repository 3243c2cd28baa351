//! `krun-vmm probe`: a guest of a few instructions, run on KVM directly.
//!
//! On some machines /dev/kvm opens and makes VMs, but then emulates the guest's kernel and stops at an instruction that
//! its emulator lacks. The guest here executes two such instructions in 64-bit mode. It may hang, so it must run in a
//! process that can be killed.

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

// The layout of the guest's memory. Its first 2 MiB are mapped one to one.
const PAGE_MAP: usize = 0x1000;
const PAGE_POINTERS: usize = 0x2000;
const PAGE_DIRECTORY: usize = 0x3000;
const SEGMENTS: usize = 0x4000;
const INTERRUPTS: usize = 0x5000;
const STACK_TOP: usize = 0x7000;
const CODE: usize = 0x7000;
const HANDLER: usize = 0x7100;
const DATA: usize = 0x8000;
const MEMORY_SIZE: usize = 0x10000;

/// Page-table entries: present, writable, and in the last of them a page of 2 MiB.
const PRESENT: u64 = 1 | 1 << 1;
const LARGE: u64 = 1 << 7;

/// Selectors of the two segments, and their descriptors: 64-bit code, and data.
const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const CODE_SEGMENT: u64 = 0x00af_9a00_0000_ffff;
const DATA_SEGMENT: u64 = 0x00cf_9200_0000_ffff;

/// A present 64-bit interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e;

/// Vector of int3.
const BREAKPOINT: usize = 3;

// Control registers: protection, extension type, paging; PAE, FXSR; long mode enabled and active.
const CR0: u64 = 1 | 1 << 4 | 1 << 31;
const CR4: u64 = 1 << 5 | 1 << 9;
const EFER: u64 = 1 << 8 | 1 << 10;

/// Three pages below 4 GiB that KVM needs on Intel. Source: Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// lock cmpxchg16b [rdi]; setz [rdi+16]; int3; hlt
const CODE_BYTES: [u8; 11] = [0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0x0f, 0x94, 0x47, 0x10, 0xcc, 0xf4];

/// mov byte [rdi+17], 1; iretq
const HANDLER_BYTES: [u8; 6] = [0xc6, 0x47, 0x11, 0x01, 0x48, 0xcf];

/// What the exchange stores.
const STORED: [u64; 2] = [0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00];

/// Exits with 0 if the guest ran, otherwise prints why not.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let kvm = Kvm::new().context("opening it")?;
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    vm.set_tss_address(TSS_ADDRESS).context("KVM_SET_TSS_ADDR")?;
    let mut memory = Memory::new()?;
    memory.fill();
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY_SIZE as u64,
        userspace_addr: memory.0.as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: the memory is mapped for as long as the process lives.
    unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
    let mut vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).context("KVM_GET_SUPPORTED_CPUID")?;
    vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
    set_registers(&vcpu)?;
    match vcpu.run().context("KVM_RUN")? {
        VcpuExit::Hlt => {}
        VcpuExit::InternalError => bail!("KVM_EXIT_INTERNAL_ERROR at an instruction that it does not know"),
        other => bail!("the guest ended with {other:?}"),
    }
    let done = &memory.0[DATA..DATA + 18];
    ensure!(
        done[..8] == STORED[0].to_le_bytes() && done[8..16] == STORED[1].to_le_bytes() && done[16] == 1,
        "cmpxchg16b did not store what it should"
    );
    ensure!(done[17] == 1, "int3 did not reach its handler");
    Ok(())
}

fn set_registers(vcpu: &VcpuFd) -> Result<()> {
    let mut special = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    let segment = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    special.cs = kvm_segment { selector: CODE_SELECTOR, type_: 11, l: 1, ..segment };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, db: 1, ..segment };
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    (special.gdt.base, special.gdt.limit) = (SEGMENTS as u64, 3 * 8 - 1);
    (special.idt.base, special.idt.limit) = (INTERRUPTS as u64, 32 * 16 - 1);
    (special.cr0, special.cr3, special.cr4, special.efer) = (CR0, PAGE_MAP as u64, CR4, EFER);
    vcpu.set_sregs(&special).context("KVM_SET_SREGS")?;
    let mut general = vcpu.get_regs().context("KVM_GET_REGS")?;
    (general.rip, general.rsp, general.rdi) = (CODE as u64, STACK_TOP as u64, DATA as u64);
    // cmpxchg16b compares with rdx:rax and stores rcx:rbx.
    (general.rax, general.rdx) = (0, 0);
    (general.rbx, general.rcx) = (STORED[0], STORED[1]);
    // Bit 1 is always set.
    general.rflags = 2;
    vcpu.set_regs(&general).context("KVM_SET_REGS")
}

struct Memory(&'static mut [u8]);

impl Memory {
    fn new() -> Result<Self> {
        let size = std::num::NonZero::new(MEMORY_SIZE).context("no size")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new memory at an address of the kernel's choice.
        let address = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE) }?;
        // SAFETY: mapped, zero, and never unmapped. The guest changes it only while `run` waits.
        Ok(Memory(unsafe { std::slice::from_raw_parts_mut(address.as_ptr().cast(), MEMORY_SIZE) }))
    }

    fn fill(&mut self) {
        self.word(PAGE_MAP, PAGE_POINTERS as u64 | PRESENT);
        self.word(PAGE_POINTERS, PAGE_DIRECTORY as u64 | PRESENT);
        self.word(PAGE_DIRECTORY, PRESENT | LARGE);
        self.word(SEGMENTS + usize::from(CODE_SELECTOR), CODE_SEGMENT);
        self.word(SEGMENTS + usize::from(DATA_SELECTOR), DATA_SEGMENT);
        // The handler's address fits in its lowest part.
        let gate = HANDLER as u64 | u64::from(CODE_SELECTOR) << 16 | INTERRUPT_GATE << 40;
        self.word(INTERRUPTS + BREAKPOINT * 16, gate);
        self.0[CODE..CODE + CODE_BYTES.len()].copy_from_slice(&CODE_BYTES);
        self.0[HANDLER..HANDLER + HANDLER_BYTES.len()].copy_from_slice(&HANDLER_BYTES);
    }

    fn word(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}
