//! The memory that the process may use.

use std::path::{Path, PathBuf};

/// Returns the bytes of memory that the process may use: the least of the machine's memory, the limits of the process's control
/// groups, and its limit on address space (`ulimit -v`).
pub(super) fn available() -> u64 {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups).into_iter().filter_map(|file| {
        // Version 2 has the text `max` if there is no limit, which does not parse.
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    });
    limits.min().unwrap_or(u64::MAX).min(machine()).min(address_space())
}

/// RLIMIT_AS; u64::MAX without one.
fn address_space() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: `limit` is one struct of the type that the call writes. A refusal leaves it unlimited.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    limit.rlim_cur
}

/// Returns the machine's memory in bytes.
fn machine() -> u64 {
    // SAFETY: the call has no preconditions.
    let [pages, page] = [libc::_SC_PHYS_PAGES, libc::_SC_PAGESIZE].map(|name| unsafe { libc::sysconf(name) });
    u64::try_from(pages)
        .unwrap_or(0)
        .saturating_mul(u64::try_from(page).unwrap_or(0))
}

/// Returns the files that may limit a process whose `/proc/PID/cgroup` is `groups`: those of its group and of all groups above
/// (control groups version 2, and the memory controller of version 1; see cgroups(7)).
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (root, name) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            files.push(Path::new(root).join(group).join(name));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(groups: &str) -> Vec<String> {
        let files = limit_files(groups).into_iter();
        files.map(|file| file.display().to_string()).collect()
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        let nested = [
            "/sys/fs/cgroup/a/b/memory.max",
            "/sys/fs/cgroup/a/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files("0::/a/b\n"), nested);
        assert_eq!(files("0::/"), ["/sys/fs/cgroup/memory.max"]);
        let first = "12:cpu:/x\n3:memory,hugetlb:/pod\n";
        let version_1 = ["pod/memory.limit_in_bytes", "memory.limit_in_bytes"];
        assert_eq!(
            files(first),
            version_1.map(|file| format!("/sys/fs/cgroup/memory/{file}"))
        );
        assert!(files("nonsense\n").is_empty());
    }

    #[test]
    fn available_memory_is_plausible() {
        assert!((1 << 20..u64::MAX).contains(&available()));
    }
}
