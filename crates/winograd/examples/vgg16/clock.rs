//! Time, on a busy machine.

/// A moment of wall time or, with CPU=1, of the process's CPU time, which times one thread well beside other programs.
#[derive(Clone, Copy)]
pub struct Clock(f64);

impl Clock {
    pub fn now() -> Self {
        let clock = match std::env::var_os("CPU") {
            Some(_) => libc::CLOCK_PROCESS_CPUTIME_ID,
            None => libc::CLOCK_MONOTONIC,
        };
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for writing.
        unsafe { libc::clock_gettime(clock, &mut time) };
        Self(time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6)
    }

    pub fn elapsed_ms(self) -> f64 {
        Self::now().0 - self.0
    }
}

/// The median or, with MIN=1, the minimum.
pub fn statistic(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    match std::env::var_os("MIN") {
        Some(_) => times[0],
        None => times[times.len() / 2],
    }
}
