//! Which to let go for room: the least recently used that nobody uses. Pure: no clock, no locks.

use std::collections::{BTreeMap, HashMap};

/// How an item is used, as its owner tells when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// A number that grows with every use of any item, and is given to one use alone.
    pub last_use: u64,
    /// Whether somebody uses it now.
    pub in_use: bool,
}

/// Items by their last use. A use need not be told: whoever looks for victims asks the items, and moves those that were
/// used since they were put in their place. So a use costs nothing here, and the order is exact when it matters.
#[derive(Debug)]
pub struct Lru<T> {
    by_use: BTreeMap<u64, Entry<T>>,
    places: HashMap<u64, u64>,
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
            places: HashMap::new(),
            bytes: 0,
        }
    }
}

impl<T: Clone> Lru<T> {
    /// Bytes of all items.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds an item under an identity of its own, in place of one that has it already.
    pub fn insert(&mut self, id: u64, last_use: u64, bytes: u64, item: T) {
        self.remove(id);
        self.bytes += bytes;
        self.place(last_use, Entry { id, bytes, item });
    }

    /// Forgets an item, if it is there.
    pub fn remove(&mut self, id: u64) {
        let entry = self.places.remove(&id).and_then(|place| self.by_use.remove(&place));
        self.bytes -= entry.map_or(0, |entry| entry.bytes);
    }

    /// The fewest items, least recently used first, that free `need` bytes; none if what nobody uses has not as many.
    pub fn victims(&mut self, need: u64, usage: impl Fn(&T) -> Usage) -> Option<Vec<(u64, T)>> {
        let (mut victims, mut freed, mut at) = (Vec::new(), 0, 0);
        while freed < need {
            let (&place, entry) = self.by_use.range(at..).next()?;
            at = place + 1;
            let Usage { last_use, in_use } = usage(&entry.item);
            if last_use > place {
                self.by_use
                    .remove(&place)
                    .into_iter()
                    .for_each(|entry| self.place(last_use, entry));
            } else if !in_use {
                freed += entry.bytes;
                victims.push((entry.id, entry.item.clone()));
            }
        }
        Some(victims)
    }

    fn place(&mut self, last_use: u64, entry: Entry<T>) {
        self.places.insert(entry.id, last_use);
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
        MakeRoom { need: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = 0..12usize;
        prop_oneof![
            3 => (0..9u64).prop_map(|bytes| Step::Insert { bytes }),
            1 => id.clone().prop_map(|id| Step::Remove { id }),
            4 => id.clone().prop_map(|id| Step::Use { id }),
            2 => (id, any::<bool>()).prop_map(|(id, held)| Step::Hold { id, held }),
            2 => (0..30u64).prop_map(|need| Step::MakeRoom { need }),
        ]
    }

    /// An item as the test knows it; `bytes` is none once it has gone.
    #[derive(Clone, Copy)]
    struct Known {
        bytes: Option<u64>,
        usage: Usage,
    }

    /// What must go, by looking at every item there is.
    fn expected(known: &[Known], need: u64) -> Option<Vec<usize>> {
        let mut free: Vec<usize> = (0..known.len())
            .filter(|&id| known[id].bytes.is_some() && !known[id].usage.in_use)
            .collect();
        free.sort_by_key(|&id| known[id].usage.last_use);
        let (mut freed, mut victims) = (0, Vec::new());
        for id in free {
            if freed >= need {
                break;
            }
            freed += known[id].bytes.unwrap();
            victims.push(id);
        }
        (freed >= need).then_some(victims)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn victims_are_the_least_recently_used_that_nobody_uses(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut lru, mut known) = (Lru::default(), Vec::<Known>::new());
            for (now, step) in (1..).zip(steps) {
                match step {
                    Step::Insert { bytes } => {
                        let id = known.len();
                        lru.insert(id as u64, now, bytes, id);
                        known.push(Known { bytes: Some(bytes), usage: Usage { last_use: now, in_use: false } });
                    }
                    Step::Remove { id } => {
                        lru.remove(id as u64);
                        known.get_mut(id).into_iter().for_each(|known| known.bytes = None);
                    }
                    Step::Use { id } => known.get_mut(id).into_iter().for_each(|known| known.usage.last_use = now),
                    Step::Hold { id, held } => {
                        known.get_mut(id).into_iter().for_each(|known| known.usage.in_use = held);
                    }
                    Step::MakeRoom { need } => {
                        let victims = lru.victims(need, |&id| known[id].usage);
                        let ids = victims.map(|victims| victims.iter().map(|victim| victim.1).collect::<Vec<_>>());
                        prop_assert_eq!(&ids, &expected(&known, need));
                        for id in ids.unwrap_or_default() {
                            lru.remove(id as u64);
                            known[id].bytes = None;
                        }
                    }
                }
                prop_assert_eq!(lru.bytes(), known.iter().filter_map(|known| known.bytes).sum::<u64>());
            }
        }
    }
}
