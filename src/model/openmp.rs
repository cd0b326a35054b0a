//! How libgomp's threads wait for work, which libtorch gives them in every layer.

/// Has them sleep rather than spin: between two batches a spinning thread takes the core that decoding and the network's
/// traffic need. libgomp reads the variable when it is loaded, before `main`; a user's own setting stays.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".preinit_array")]
static SLEEP_WHILE_WAITING: extern "C" fn() = {
    extern "C" fn sleep_while_waiting() {
        // SAFETY: the loader calls it once, before any other thread or library's initialiser runs, with the environment
        // set up; both strings are static and end in NUL; 0 leaves what is set.
        unsafe { libc::setenv(c"OMP_WAIT_POLICY".as_ptr(), c"passive".as_ptr(), 0) };
    }
    sleep_while_waiting
};
