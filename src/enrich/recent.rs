//! A map that keeps what was asked for lately. Two generations: when the younger is full it becomes the older, and what is
//! in the older and is asked for moves to the younger. So the last `capacity` keys are there, at most twice as many.

use std::collections::HashMap;
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), capacity: capacity.max(1) }
    }

    pub(super) fn get(&mut self, key: K) -> Option<&mut V> {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key)?;
            self.young.insert(key, value);
        }
        self.young.get_mut(&key)
    }

    /// Returns those that leave.
    pub(super) fn insert(&mut self, key: K, value: V) -> HashMap<K, V> {
        self.young.insert(key, value);
        if self.young.len() < self.capacity {
            return HashMap::new();
        }
        std::mem::replace(&mut self.old, std::mem::take(&mut self.young))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.young.values_mut().chain(self.old.values_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_leaves() {
        let mut recent = Recent::new(4);
        let mut left = Vec::new();
        for key in 0..100 {
            left.extend(recent.insert(key, key).into_keys());
            assert_eq!(recent.get(0), Some(&mut 0));
        }
        assert!(left.len() >= 91 && !left.contains(&0));
        assert_eq!(recent.get(50), None);
        assert!(recent.values_mut().count() <= 8);
    }
}
