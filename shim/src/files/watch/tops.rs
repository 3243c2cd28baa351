//! The tops of a sandbox's volumes: which of them several containers have.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

/// What the host's kernel calls a file: its device and its inode.
pub type Key = (u64, u64);

/// The tops of all watched volumes of a sandbox.
#[derive(Debug, Default)]
pub struct Tops(Mutex<Vec<(Key, Weak<Top>)>>);

/// The top of a volume.
#[derive(Debug, Default)]
pub struct Top {
    is_shared: AtomicBool,
}

impl Tops {
    /// A volume with this top, as long as the result is kept.
    pub fn enter(&self, key: Key) -> Arc<Top> {
        let top = Arc::new(Top::default());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, other)| other.strong_count() > 0);
        for other in all.iter().filter(|(other, _)| *other == key).filter_map(|(_, other)| other.upgrade()) {
            for one in [&other, &top] {
                one.is_shared.store(true, Ordering::Relaxed);
            }
        }
        all.push((key, Arc::downgrade(&top)));
        top
    }
}

impl Top {
    /// Whether another volume has, or had, the same top.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_with_the_same_top_know_of_each_other() {
        let tops = Tops::default();
        let (first, other) = (tops.enter((1, 2)), tops.enter((1, 3)));
        assert!(!first.is_shared() && !other.is_shared());
        let second = tops.enter((1, 2));
        assert!(first.is_shared() && second.is_shared() && !other.is_shared());
        drop((first, second));
        assert!(!tops.enter((1, 2)).is_shared());
    }
}
