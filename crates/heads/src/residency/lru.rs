//! Chooses what to evict: the least recently used items that are not in use. Pure: no clock, no locks.

use std::collections::{BTreeMap, HashMap};

/// How an item is used, as reported by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The number of its last use; numbers are unique among all items and increase with each use.
    pub last_use: u64,
    /// True while it must not be evicted.
    pub in_use: bool,
}

/// Items in order of their last use. The order is updated lazily: [`Lru::victims`] asks each item that it visits for its
/// usage and moves those used since they were last sorted. So a use costs nothing here.
#[derive(Debug)]
pub struct Lru<T> {
    by_use: BTreeMap<u64, Entry<T>>,
    /// The key in `by_use` of each id.
    keys: HashMap<u64, u64>,
    bytes: u64,
}

#[derive(Debug)]
struct Entry<T> {
    id: u64,
    bytes: u64,
    item: T,
}

impl<T> Default for Lru<T> {
    fn default() -> Self {
        Self {
            by_use: BTreeMap::new(),
            keys: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T: Clone> Lru<T> {
    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Inserts an item; it replaces one with the same id.
    pub fn insert(&mut self, id: u64, last_use: u64, bytes: u64, item: T) {
        self.remove(id);
        self.bytes += bytes;
        self.insert_entry(last_use, Entry { id, bytes, item });
    }

    /// Removes an item, if it is there.
    pub fn remove(&mut self, id: u64) {
        let entry = self.keys.remove(&id).and_then(|key| self.by_use.remove(&key));
        self.bytes -= entry.map_or(0, |entry| entry.bytes);
    }

    /// Returns the fewest items, least recently used first, that free `bytes_needed`; none if the items that are not in
    /// use hold fewer bytes.
    pub fn victims(&mut self, bytes_needed: u64, usage: impl Fn(&T) -> Usage) -> Option<Vec<(u64, T)>> {
        let (mut victims, mut freed, mut start) = (Vec::new(), 0, 0);
        while freed < bytes_needed {
            let (&key, entry) = self.by_use.range(start..).next()?;
            start = key + 1;
            let Usage { last_use, in_use } = usage(&entry.item);
            if last_use > key {
                if let Some(entry) = self.by_use.remove(&key) {
                    self.insert_entry(last_use, entry);
                }
            } else if !in_use {
                freed += entry.bytes;
                victims.push((entry.id, entry.item.clone()));
            }
        }
        Some(victims)
    }

    fn insert_entry(&mut self, last_use: u64, entry: Entry<T>) {
        self.keys.insert(entry.id, last_use);
        self.by_use.insert(last_use, entry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert { bytes: u64 },
        Remove { id: usize },
        Use { id: usize },
        Hold { id: usize, held: bool },
        Evict { bytes_needed: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 0..12usize;
        prop_oneof![
            3 => (0..9u64).prop_map(|bytes| Step::Insert { bytes }),
            1 => id.clone().prop_map(|id| Step::Remove { id }),
            4 => id.clone().prop_map(|id| Step::Use { id }),
            2 => (id, any::<bool>()).prop_map(|(id, held)| Step::Hold { id, held }),
            2 => (0..30u64).prop_map(|bytes_needed| Step::Evict { bytes_needed }),
        ]
    }

    /// The model of an item; `bytes` is none once it is removed.
    #[derive(Clone, Copy)]
    struct Model {
        bytes: Option<u64>,
        usage: Usage,
    }

    /// Returns the victims, found by looking at every item.
    fn expected(models: &[Model], bytes_needed: u64) -> Option<Vec<usize>> {
        let mut free: Vec<usize> = (0..models.len())
            .filter(|&id| models[id].bytes.is_some() && !models[id].usage.in_use)
            .collect();
        free.sort_by_key(|&id| models[id].usage.last_use);
        let (mut freed, mut victims) = (0, Vec::new());
        for id in free {
            if freed >= bytes_needed {
                break;
            }
            freed += models[id].bytes.unwrap();
            victims.push(id);
        }
        (freed >= bytes_needed).then_some(victims)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn victims_are_the_least_recently_used_items_not_in_use(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut lru, mut models) = (Lru::default(), Vec::<Model>::new());
            for (now, step) in (1..).zip(steps) {
                match step {
                    Step::Insert { bytes } => {
                        let id = models.len();
                        lru.insert(id as u64, now, bytes, id);
                        models.push(Model { bytes: Some(bytes), usage: Usage { last_use: now, in_use: false } });
                    }
                    Step::Remove { id } => {
                        lru.remove(id as u64);
                        models.get_mut(id).into_iter().for_each(|model| model.bytes = None);
                    }
                    Step::Use { id } => models.get_mut(id).into_iter().for_each(|model| model.usage.last_use = now),
                    Step::Hold { id, held } => {
                        models.get_mut(id).into_iter().for_each(|model| model.usage.in_use = held);
                    }
                    Step::Evict { bytes_needed } => {
                        let victims = lru.victims(bytes_needed, |&id| models[id].usage);
                        let ids = victims.map(|victims| victims.iter().map(|victim| victim.1).collect::<Vec<_>>());
                        prop_assert_eq!(&ids, &expected(&models, bytes_needed));
                        for id in ids.unwrap_or_default() {
                            lru.remove(id as u64);
                            models[id].bytes = None;
                        }
                    }
                }
                prop_assert_eq!(lru.bytes(), models.iter().filter_map(|model| model.bytes).sum::<u64>());
            }
        }
    }
}
