//! Locking what a panic cannot leave half changed.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it, also after a thread has panicked that had it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
