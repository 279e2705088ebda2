//! Randomness and clocks of a simulated thread, in the place of the system's.
//!
//! Hash maps, tokio's `select!`, nonces and ids all draw from `getrandom` in the end, and every clock reads
//! `clock_gettime`: this program has both itself. On a thread that has called [`begin`] they answer from a seed and from
//! the simulated time; on all others they ask the system as ever.
//!
//! The only module with `unsafe`.

use std::cell::Cell;

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// The simulated wall clock at the start of a run, in seconds since 1970.
const WALL: i64 = 1_800_000_000;
/// The simulated monotonic clock at the start: not near zero, so that spans may be taken from it.
const UPTIME: i64 = 100_000;

thread_local! {
    /// The state of the generator; 0 where nothing is simulated.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
    /// Microseconds since the start of the run.
    static NOW: Cell<u64> = const { Cell::new(0) };
    /// By how many seconds the wall clock is wrong for whoever runs now.
    static WRONG: Cell<i64> = const { Cell::new(0) };
}

/// Simulates randomness and clocks on this thread from now on.
pub fn begin(seed: u64) {
    DRAWN.set(mix(seed) | 1);
    set_now(0);
}

/// Sets the simulated time of this thread, in microseconds since its start.
pub fn set_now(now: u64) {
    NOW.set(now);
}

/// Makes the wall clock of this thread wrong by that many seconds: of the node that runs now.
pub fn set_wall_wrong_by(seconds: i64) {
    WRONG.set(seconds);
}

/// Whether the thread's randomness does come from here: it is drawn from, and the state must have moved on.
pub fn holds() -> bool {
    let before = DRAWN.get();
    let _ = std::hash::RandomState::new();
    let hashed = DRAWN.get() != before;
    let before = DRAWN.get();
    let _ = rand::random::<u64>();
    hashed && DRAWN.get() != before
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's last step.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn draw() -> u64 {
    let next = DRAWN.get().wrapping_add(GOLDEN);
    DRAWN.set(next);
    mix(next)
}

/// As in libc, which see: fills `buf`.
///
/// # Safety
///
/// `buf` must be writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buf: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    // A thread that is ending has no state any more: it is none of ours.
    if DRAWN.try_with(Cell::get).unwrap_or(0) == 0 {
        // SAFETY: the arguments are passed on as they came; the system call has the contract of this function.
        return unsafe { libc::syscall(libc::SYS_getrandom, buf, len, flags) } as ssize_t;
    }
    let mut filled = 0;
    while filled < len {
        let bytes = draw().to_le_bytes();
        let part = (len - filled).min(bytes.len());
        // SAFETY: `buf` is writable for `len` bytes, and `filled + part <= len`; `bytes` has at least `part` bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.cast::<u8>().add(filled), part) };
        filled += part;
    }
    len as ssize_t
}

/// As in libc, which see: reads a clock.
///
/// # Safety
///
/// `out` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    let start = match clock {
        libc::CLOCK_REALTIME => WALL + WRONG.try_with(Cell::get).unwrap_or(0),
        _ => UPTIME,
    };
    if DRAWN.try_with(Cell::get).unwrap_or(0) == 0 {
        // SAFETY: the arguments are passed on as they came; the system call has the contract of this function.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as c_int;
    }
    let now = NOW.try_with(Cell::get).unwrap_or(0);
    let seconds = start + (now / 1_000_000) as i64;
    let time = timespec { tv_sec: seconds, tv_nsec: (now % 1_000_000) as c_long * 1_000 };
    // SAFETY: `out` is writable.
    unsafe { out.write(time) };
    0
}
