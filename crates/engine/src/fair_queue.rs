//! A queue of many flows that are served round-robin. Pure: no clock, no tokio.

use std::collections::{HashMap, VecDeque};

use super::class::FlowId;

/// Items by flow. Each [`FairQueue::pop`] takes the oldest item of the next flow, so that a flow of many items delays
/// another flow by at most one item. A flow of costly items is [charged](FairQueue::charge) turns, which it leaves to the
/// others, and so is a flow whose item is [taken](FairQueue::take) before its turn.
#[derive(Debug)]
pub struct FairQueue<T> {
    flows: HashMap<FlowId, Flow<T>>,
    /// Flows with items that are not parked, in the order in which they are served.
    active: VecDeque<FlowId>,
    /// Parked flows, in the order in which they were parked.
    parked: VecDeque<FlowId>,
    len: usize,
}

#[derive(Debug)]
struct Flow<T> {
    items: VecDeque<T>,
    /// The turns that it leaves to others.
    owed: usize,
}

/// The place of an item in a queue that has not changed since.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The flow's index in the order in which they are served.
    flow: usize,
    /// The item's index in its flow.
    item: usize,
}

/// Limit of items that [`FairQueue::find`] looks at.
const LOOK_MAX: usize = 256;

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            active: VecDeque::new(),
            parked: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// The number of items, those of parked flows included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an item behind the others of its flow.
    pub fn push_back(&mut self, flow: FlowId, item: T) {
        let queue = self.flow(flow);
        queue.items.push_back(item);
        self.len += 1;
    }

    /// Adds an item before the others of its flow.
    pub fn push_front(&mut self, flow: FlowId, item: T) {
        let queue = self.flow(flow);
        queue.items.push_front(item);
        self.len += 1;
    }

    /// Returns the item that [`FairQueue::pop`] would take.
    pub fn peek(&self) -> Option<&T> {
        self.find(|_| true).map(|(_, item)| item)
    }

    /// Takes the oldest item of the next flow, which goes behind the other flows.
    pub fn pop(&mut self) -> Option<T> {
        let (place, _) = self.find(|_| true)?;
        self.take(place)
    }

    /// Returns the item to take next of those for which `wanted` is true: the oldest of the flow that owes the fewest turns,
    /// and of such flows the next. Looks at the first [`LOOK_MAX`] items only.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(Place, &T)> {
        let mut left = LOOK_MAX;
        let mut found: Option<(usize, Place, &T)> = None;
        for (flow, id) in self.active.iter().enumerate() {
            let Flow { items, owed } = self.flows.get(id)?;
            if found.is_none_or(|(least, ..)| *owed < least)
                && let Some((item, value)) = items.iter().take(left).enumerate().find(|(_, value)| wanted(value))
            {
                found = Some((*owed, Place { flow, item }, value));
            }
            left = left.saturating_sub(items.len());
            if left == 0 || found.is_some_and(|(least, ..)| least == 0) {
                break;
            }
        }
        found.map(|(_, place, item)| (place, item))
    }

    /// Takes an item. If it is the turn of its flow, the flow goes behind the others; if not, it owes that turn.
    pub fn take(&mut self, place: Place) -> Option<T> {
        let id = *self.active.get(place.flow)?;
        let flow = self.flows.get_mut(&id)?;
        let item = flow.items.remove(place.item)?;
        if flow.items.is_empty() {
            self.flows.remove(&id);
            self.active.remove(place.flow);
        } else if place.flow == 0 {
            self.active.rotate_left(1);
        } else {
            flow.owed += 1;
        }
        self.len -= 1;
        self.settle();
        Some(item)
    }

    /// Makes a flow of which an item was just popped leave so many turns to other flows, while any wait.
    pub fn charge(&mut self, flow: FlowId, turns: usize) {
        if let Some(flow) = self.flows.get_mut(&flow) {
            flow.owed += turns;
            self.settle();
        }
    }

    /// Passes over flows that owe their turn. With no other flow, a flow has soon paid.
    fn settle(&mut self) {
        while let Some(&id) = self.active.front()
            && let Some(flow) = self.flows.get_mut(&id)
            && flow.owed > 0
        {
            flow.owed -= 1;
            self.active.rotate_left(1);
        }
    }

    /// Puts an item that was just popped back to the front of its flow, which is not served until
    /// [`FairQueue::unpark`].
    pub fn park(&mut self, flow: FlowId, item: T) {
        self.push_front(flow, item);
        self.active.retain(|&active| active != flow);
        self.parked.push_back(flow);
        self.settle();
    }

    /// Serves parked flows again, before the others.
    pub fn unpark(&mut self) {
        while let Some(flow) = self.parked.pop_back() {
            self.active.push_front(flow);
        }
        self.settle();
    }

    /// Removes the items for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for flow in self.flows.values_mut() {
            flow.items.retain(&mut keep);
        }
        self.flows.retain(|_, flow| !flow.items.is_empty());
        self.active.retain(|flow| self.flows.contains_key(flow));
        self.parked.retain(|flow| self.flows.contains_key(flow));
        self.len = self.flows.values().map(|flow| flow.items.len()).sum();
        self.settle();
    }

    /// Takes every item.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.active.clear();
        self.parked.clear();
        self.len = 0;
        self.flows.drain().flat_map(|(_, flow)| flow.items)
    }

    /// Returns a flow; a new one goes behind the others.
    fn flow(&mut self, id: FlowId) -> &mut Flow<T> {
        self.flows.entry(id).or_insert_with(|| {
            self.active.push_back(id);
            Flow {
                items: VecDeque::new(),
                owed: 0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_other_waiting_flow_is_served_between_two_items_of_a_flow(
            sizes in prop::collection::vec(1usize..20, 1..8),
        ) {
            let mut queue = FairQueue::default();
            for (flow, &size) in sizes.iter().enumerate() {
                for number in 0..size {
                    queue.push_back(flow as FlowId, (flow, number));
                }
            }
            let mut served = vec![0; sizes.len()];
            while let Some((flow, number)) = queue.pop() {
                // FIFO within a flow.
                prop_assert_eq!(number, served[flow]);
                served[flow] += 1;
                for (other, &size) in sizes.iter().enumerate() {
                    prop_assert!(served[other] == size || served[other] + 1 >= served[flow]);
                }
            }
            prop_assert_eq!(served, sizes);
            prop_assert_eq!(queue.len(), 0);
        }

        #[test]
        fn retained_items_keep_their_order(
            items in prop::collection::vec((0u64..4, any::<bool>()), 0..40),
        ) {
            let mut queue = FairQueue::default();
            for (number, &(flow, kept)) in items.iter().enumerate() {
                queue.push_back(flow, (flow, number, kept));
            }
            queue.retain(|item| item.2);
            prop_assert_eq!(queue.len(), items.iter().filter(|item| item.1).count());
            let mut last = HashMap::new();
            while let Some((flow, number, kept)) = queue.pop() {
                prop_assert!(kept && last.insert(flow, number).is_none_or(|before| before < number));
            }
            prop_assert!(queue.peek().is_none());
        }
    }

    /// Flow 0's items cost as much as four of the others'.
    #[test]
    fn a_flow_of_costly_items_gets_fewer_turns() {
        let mut queue = FairQueue::default();
        for number in 0..40 {
            for flow in 0..3 {
                queue.push_back(flow, (flow, number));
            }
        }
        let mut served = [0; 3];
        for _ in 0..36 {
            let (flow, _) = queue.pop().unwrap();
            queue.charge(flow, if flow == 0 { 3 } else { 0 });
            served[flow as usize] += 1;
        }
        assert_eq!(served, [4, 16, 16]);
        // Alone, it is served at once.
        queue.retain(|item| item.0 == 0);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 36);
    }

    /// Flow 0's items are taken four at a time, before their turns.
    #[test]
    fn a_flow_whose_items_are_taken_early_gets_no_more_turns() {
        let mut queue = FairQueue::default();
        for number in 0..40 {
            for flow in 0..3 {
                queue.push_back(flow, (flow, number));
            }
        }
        let mut served = [0; 3];
        for _ in 0..20 {
            let (flow, _) = queue.pop().unwrap();
            served[flow as usize] += 1;
            for _ in 0..if flow == 0 { 3 } else { 0 } {
                let (place, _) = queue.find(|item| item.0 == 0).unwrap();
                served[queue.take(place).unwrap().0 as usize] += 1;
            }
        }
        assert_eq!(served, [12, 9, 8]);
    }

    #[test]
    fn an_item_is_found_within_its_flow_and_leaves_the_others_in_order() {
        let mut queue = FairQueue::default();
        for item in [(1, 'a'), (1, 'b'), (2, 'c'), (2, 'b'), (1, 'd')] {
            queue.push_back(item.0, item);
        }
        let take = |queue: &mut FairQueue<_>, wanted| {
            let (place, _) = queue.find(|item: &(FlowId, char)| item.1 == wanted)?;
            queue.take(place)
        };
        assert_eq!(take(&mut queue, 'b'), Some((1, 'b')));
        assert_eq!(take(&mut queue, 'b'), Some((2, 'b')));
        assert_eq!(take(&mut queue, 'b'), None);
        let left: Vec<char> = std::iter::from_fn(|| queue.pop()).map(|item| item.1).collect();
        assert_eq!(left, ['a', 'c', 'd']);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn a_parked_flow_is_not_served_until_it_is_unparked() {
        let mut queue = FairQueue::default();
        for item in [(1, 'a'), (1, 'b'), (2, 'c')] {
            queue.push_back(item.0, item);
        }
        let first = queue.pop().unwrap();
        assert_eq!(first, (1, 'a'));
        queue.park(1, first);
        assert_eq!(queue.pop(), Some((2, 'c')));
        assert_eq!((queue.pop(), queue.len(), queue.peek().is_some()), (None, 2, false));
        // Items added to a parked flow are parked, too.
        queue.push_back(1, (1, 'd'));
        assert!(queue.peek().is_none());
        queue.unpark();
        assert_eq!(
            std::iter::from_fn(|| queue.pop())
                .map(|item| item.1)
                .collect::<String>(),
            "abd"
        );
    }
}
