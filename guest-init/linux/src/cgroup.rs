//! The contents of a cgroup's files. Source: the kernel's cgroup-v2.rst.

/// The file that counts what happened for memory.
pub const MEMORY_EVENTS: &str = "memory.events";

/// The number after `key` in a flat keyed file.
pub fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The processes that the OOM killer killed, as [`MEMORY_EVENTS`] tells them. Zero where the kernel does not count them.
pub fn oom_kills(memory_events: &str) -> u64 {
    value_of(memory_events, "oom_kill").unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_are_read_by_whole_keys() {
        let text = "oom 4\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(value_of(text, "oom_kill"), Some(2));
        assert_eq!(value_of(text, "oom"), Some(4));
        assert_eq!(value_of(text, "low"), None);
    }

    #[test]
    fn kills_that_are_not_counted_are_none() {
        assert_eq!(oom_kills("low 0\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(oom_kills("oom 3\n"), 0);
    }
}
