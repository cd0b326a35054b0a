//! Queues of many flows that take turns. Pure: no clock, no tokio.

use std::collections::{HashMap, VecDeque};

use super::class::FlowId;

/// Items by flow. Each [`FairQueue::pop`] serves the next flow in turn, and of it the oldest item, so that a flow of
/// many items delays another flow by one item at most.
#[derive(Debug)]
pub struct FairQueue<T> {
    flows: HashMap<FlowId, Flow<T>>,
    /// Flows with items, the next to serve first. A parked flow is not among them.
    turns: VecDeque<FlowId>,
    /// Parked flows, the first parked first.
    parked: VecDeque<FlowId>,
    len: usize,
}

#[derive(Debug)]
struct Flow<T> {
    items: VecDeque<T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            turns: VecDeque::new(),
            parked: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// How many items wait, parked ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether a flow can be served.
    pub fn has_turn(&self) -> bool {
        !self.turns.is_empty()
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

    /// Takes the oldest item of the flow whose turn it is. The flow goes behind the others.
    pub fn pop(&mut self) -> Option<T> {
        let id = self.turns.pop_front()?;
        let flow = self.flows.get_mut(&id)?;
        let item = flow.items.pop_front()?;
        if flow.items.is_empty() {
            self.flows.remove(&id);
        } else {
            self.turns.push_back(id);
        }
        self.len -= 1;
        Some(item)
    }

    /// Puts an item that was just popped back to the front of its flow, and leaves that flow out of the turns until
    /// [`FairQueue::unpark`].
    pub fn park(&mut self, flow: FlowId, item: T) {
        self.push_front(flow, item);
        self.turns.retain(|&turn| turn != flow);
        self.parked.push_back(flow);
    }

    /// Lets parked flows take turns again, before the others: their turn had come.
    pub fn unpark(&mut self) {
        while let Some(flow) = self.parked.pop_back() {
            self.turns.push_front(flow);
        }
    }

    /// Removes the items for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for flow in self.flows.values_mut() {
            flow.items.retain(&mut keep);
        }
        self.flows.retain(|_, flow| !flow.items.is_empty());
        self.turns.retain(|turn| self.flows.contains_key(turn));
        self.parked.retain(|flow| self.flows.contains_key(flow));
        self.len = self.flows.values().map(|flow| flow.items.len()).sum();
    }

    /// Takes every item.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.turns.clear();
        self.parked.clear();
        self.len = 0;
        self.flows.drain().flat_map(|(_, flow)| flow.items)
    }

    /// The flow's queue; a new flow takes its turn behind the others.
    fn flow(&mut self, id: FlowId) -> &mut Flow<T> {
        self.flows.entry(id).or_insert_with(|| {
            self.turns.push_back(id);
            Flow { items: VecDeque::new() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn between_two_items_of_a_flow_every_other_waiting_flow_has_a_turn(
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
                // First in, first out within a flow.
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
        fn what_is_retained_keeps_its_order(
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
            prop_assert!(!queue.has_turn());
        }
    }

    #[test]
    fn a_parked_flow_has_no_turn_until_it_is_let_back() {
        let mut queue = FairQueue::default();
        for item in [(1, 'a'), (1, 'b'), (2, 'c')] {
            queue.push_back(item.0, item);
        }
        let first = queue.pop().unwrap();
        assert_eq!(first, (1, 'a'));
        queue.park(1, first);
        assert_eq!(queue.pop(), Some((2, 'c')));
        assert_eq!((queue.pop(), queue.len(), queue.has_turn()), (None, 2, false));
        // What comes for it meanwhile is parked with it.
        queue.push_back(1, (1, 'd'));
        assert!(!queue.has_turn());
        queue.unpark();
        assert_eq!(
            std::iter::from_fn(|| queue.pop())
                .map(|item| item.1)
                .collect::<String>(),
            "abd"
        );
    }
}
