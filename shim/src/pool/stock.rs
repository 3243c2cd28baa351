//! What the pool has, and what it lacks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Something that is kept: of which size it is, by its number, and of which kind.
pub trait Kept {
    /// What it is asked for by.
    type Kind: PartialEq;

    /// Its size's number.
    fn size(&self) -> usize;

    /// Its kind.
    fn kind(&self) -> &Self::Kind;

    /// Whether it is well.
    fn is_well(&self) -> bool;
}

/// Things that wait: a number of each size is wanted.
pub struct Stock<T> {
    wanted: Vec<usize>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The oldest first.
    shelf: Vec<T>,
    /// How many of each size are offered to somebody.
    lent: Vec<usize>,
    is_closed: bool,
}

impl<T: Kept> Stock<T> {
    /// An empty one, that is to have so many of each size.
    pub fn new(wanted: Vec<usize>) -> Stock<T> {
        let state = State { shelf: Vec::new(), lent: vec![0; wanted.len()], is_closed: false };
        Stock { wanted, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first size of which one is missing. One that is offered to somebody is not.
    pub fn missing(&self) -> Option<usize> {
        let state = self.lock();
        let has =
            |size: usize| state.lent[size] + state.shelf.iter().filter(|one| one.size() == size).count();
        (0..self.wanted.len()).find(|size| !state.is_closed && has(*size) < self.wanted[*size])
    }

    /// Adds one, or gives it back when there are enough.
    pub fn add(&self, one: T) -> Option<T> {
        let mut state = self.lock();
        let size = one.size();
        let has = state.shelf.iter().filter(|other| other.size() == size).count();
        if state.is_closed || !one.is_well() || has >= self.wanted[size] {
            return Some(one);
        }
        state.shelf.push(one);
        None
    }

    /// Takes the oldest of a kind, to offer it to somebody.
    pub fn lend(&self, kind: &T::Kind) -> Option<T> {
        let mut state = self.lock();
        let found = state.shelf.iter().position(|one| one.kind() == kind && one.is_well())?;
        let one = state.shelf.remove(found);
        state.lent[one.size()] += 1;
        Some(one)
    }

    /// Says that one of this size is offered to nobody any more.
    pub fn settle(&self, size: usize) {
        let mut state = self.lock();
        state.lent[size] = state.lent[size].saturating_sub(1);
    }

    /// Takes out those that are to go.
    pub fn take(&self, goes: impl Fn(&T) -> bool) -> Vec<T> {
        let mut state = self.lock();
        let (gone, kept) = std::mem::take(&mut state.shelf).into_iter().partition(goes);
        state.shelf = kept;
        gone
    }

    /// Takes out all, and keeps nothing until it is opened again.
    pub fn close(&self) -> Vec<T> {
        self.lock().is_closed = true;
        self.take(|_| true)
    }

    /// Keeps what is added again.
    pub fn open(&self) {
        self.lock().is_closed = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct One {
        size: usize,
        kind: u8,
        is_well: AtomicBool,
    }

    fn one(size: usize, kind: u8) -> One {
        One { size, kind, is_well: AtomicBool::new(true) }
    }

    impl Kept for One {
        type Kind = u8;

        fn size(&self) -> usize {
            self.size
        }

        fn kind(&self) -> &u8 {
            &self.kind
        }

        fn is_well(&self) -> bool {
            self.is_well.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn it_is_filled_up_to_what_is_wanted() {
        let stock = Stock::new(vec![1, 0, 2]);
        assert_eq!(stock.missing(), Some(0));
        assert!(stock.add(one(0, 7)).is_none());
        assert_eq!(stock.missing(), Some(2));
        assert!(stock.add(one(0, 7)).is_some() && stock.add(one(1, 7)).is_some());
        assert!(stock.add(one(2, 8)).is_none() && stock.add(one(2, 8)).is_none());
        assert_eq!(stock.missing(), None);
    }

    #[test]
    fn what_is_lent_is_given_to_nobody_else_and_not_missing() {
        let stock = Stock::new(vec![1]);
        stock.add(one(0, 7));
        assert!(stock.lend(&8).is_none());
        let lent = stock.lend(&7).unwrap();
        assert!(stock.lend(&7).is_none());
        assert_eq!(stock.missing(), None);
        // It comes back.
        stock.settle(0);
        assert!(stock.add(lent).is_none());
        assert!(stock.lend(&7).is_some());
        // It does not.
        stock.settle(0);
        assert_eq!(stock.missing(), Some(0));
    }

    #[test]
    fn one_that_is_not_well_is_not_lent_nor_taken_back() {
        let stock = Stock::new(vec![2]);
        stock.add(one(0, 7));
        stock.state.lock().unwrap().shelf[0].is_well.store(false, Ordering::Relaxed);
        assert!(stock.lend(&7).is_none());
        assert_eq!(stock.take(|one| !one.is_well()).len(), 1);
        let ill = one(0, 7);
        ill.is_well.store(false, Ordering::Relaxed);
        assert!(stock.add(ill).is_some());
    }

    #[test]
    fn nothing_is_kept_while_it_is_closed() {
        let stock = Stock::new(vec![2]);
        stock.add(one(0, 7));
        let lent = stock.lend(&7).unwrap();
        assert!(stock.close().is_empty());
        stock.settle(0);
        assert!(stock.add(lent).is_some());
        assert_eq!(stock.missing(), None);
        stock.open();
        assert_eq!(stock.missing(), Some(0));
    }
}
