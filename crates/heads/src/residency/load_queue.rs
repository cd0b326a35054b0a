//! The queue of loads that wait for a thread, interactive ones first. Pure.

use std::collections::VecDeque;

/// How urgent a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A request of a stream, which may wait.
    Bulk,
    /// A unary call, whose caller waits for this one answer.
    Interactive,
}

/// Interactive requests' loads before bulk ones, each in order of arrival.
#[derive(Debug)]
pub(crate) struct LoadQueue<T> {
    interactive: VecDeque<T>,
    bulk: VecDeque<T>,
}

impl<T> Default for LoadQueue<T> {
    fn default() -> Self {
        Self {
            interactive: VecDeque::new(),
            bulk: VecDeque::new(),
        }
    }
}

impl<T> LoadQueue<T> {
    pub fn push(&mut self, item: T, urgency: Urgency) {
        match urgency {
            Urgency::Interactive => self.interactive.push_back(item),
            Urgency::Bulk => self.bulk.push_back(item),
        }
    }

    pub fn pop(&mut self) -> Option<T> {
        self.interactive.pop_front().or_else(|| self.bulk.pop_front())
    }

    /// Makes the first matching bulk item, if any, interactive.
    pub fn promote(&mut self, matches: impl Fn(&T) -> bool) {
        let at = self.bulk.iter().position(matches);
        self.interactive.extend(at.and_then(|at| self.bulk.remove(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interactive_loads_precede_bulk_ones_each_in_order_of_arrival() {
        let mut queue = LoadQueue::default();
        for (item, urgency) in [
            (1, Urgency::Bulk),
            (2, Urgency::Bulk),
            (3, Urgency::Interactive),
            (4, Urgency::Bulk),
            (5, Urgency::Interactive),
        ] {
            queue.push(item, urgency);
        }
        assert_eq!(queue.pop(), Some(3));
        queue.promote(|item| *item == 4);
        queue.promote(|item| *item == 3);
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [5, 4, 1, 2]);
    }
}
