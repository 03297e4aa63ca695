//! The pause program: what holds a pod's namespaces open. `build.rs` compiles it by itself, without std and libc.
//!
//! It blocks every signal, then takes them one at a time: a blocked signal stays pending even for PID 1 and even where
//! its action is to ignore it, so none is lost between two waits. As PID 1 of a shared PID namespace it reaps
//! whatever is left to it.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIG_BLOCK: usize = 0;
const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const WNOHANG: usize = 1;
const ANY_CHILD: usize = usize::MAX;

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

// The kernel enters with no return address and the arguments on the stack; functions expect an aligned call.
#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {run}", run = sym run);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "mov x30, xzr", "bl {run}", run = sym run);

/// A set of signals as the kernel takes it: bit n-1 is signal n.
const fn set(signals: &[usize]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < signals.len() {
        bits |= 1 << (signals[at] - 1);
        at += 1;
    }
    bits
}

static ALL: u64 = u64::MAX;
static TAKEN: u64 = set(&[SIGINT, SIGTERM, SIGCHLD]);

extern "C" fn run() -> ! {
    let size = size_of::<u64>();
    // SAFETY: the set is eight readable bytes, and no old set is asked for.
    unsafe {
        syscall(
            nr::RT_SIGPROCMASK,
            [SIG_BLOCK, &raw const ALL as usize, 0, size],
        )
    };
    loop {
        // SAFETY: neither the status nor the usage is asked for, so nothing is written.
        while unsafe { syscall(nr::WAIT4, [ANY_CHILD, 0, WNOHANG, 0]) } > 0 {}
        // SAFETY: the set is eight readable bytes; no information is asked for and no limit is set.
        let signal =
            unsafe { syscall(nr::RT_SIGTIMEDWAIT, [&raw const TAKEN as usize, 0, 0, size]) };
        if signal == SIGTERM as isize || signal == SIGINT as isize {
            exit(0);
        }
    }
}

fn exit(code: usize) -> ! {
    loop {
        // SAFETY: ends the process; touches no memory.
        unsafe { syscall(nr::EXIT_GROUP, [code, 0, 0, 0]) };
    }
}

/// One system call with up to four arguments.
///
/// # Safety
/// Pointers among the arguments must be good for what the call does with them.
#[cfg(target_arch = "x86_64")]
unsafe fn syscall(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; the rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// One system call with up to four arguments.
///
/// # Safety
/// Pointers among the arguments must be good for what the call does with them.
#[cfg(target_arch = "aarch64")]
unsafe fn syscall(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result;
    // SAFETY: the kernel keeps every register but x0; the rest is the caller's promise.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(1)
}
