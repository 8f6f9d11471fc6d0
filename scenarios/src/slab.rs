//! The records that buckets hold.
//!
//! A record is stored once however many buckets hold it; a queue is a chain of small links. Bytes are counted as they
//! come and go, so that [`crate::Buckets`] can keep to its budget.

use std::sync::Arc;

use model::Record;

const NONE: u32 = u32::MAX;

/// The records of one partition.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    records: Vec<Held>,
    free_records: Vec<u32>,
    links: Vec<Link>,
    free_links: Vec<u32>,
    bytes: usize,
    /// Where the record of the last push lies: the pours of one event come together.
    newest: Option<u32>,
}

#[derive(Debug)]
struct Held {
    record: Option<Arc<Record>>,
    holders: u32,
    bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    record: u32,
    next: u32,
}

/// The records of one bucket, oldest first.
#[derive(Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }
}

impl Slab {
    /// Bytes of all records and links.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a record at the end of `queue`: its weight in bytes, shared or not.
    pub(crate) fn push(&mut self, queue: &mut Queue, record: &Arc<Record>) -> usize {
        let place = self.hold(record);
        self.link(queue, place)
    }

    /// The same for a record that may lie at `place` already; afterwards it lies there.
    pub(crate) fn push_shared(&mut self, queue: &mut Queue, record: &Arc<Record>, place: &mut Option<u32>) -> usize {
        let index = if let Some(index) = *place {
            self.records[index as usize].holders += 1;
            index
        } else {
            self.hold(record)
        };
        *place = Some(index);
        self.link(queue, index)
    }

    fn link(&mut self, queue: &mut Queue, place: u32) -> usize {
        let link = Link { record: place, next: NONE };
        let index = if let Some(index) = self.free_links.pop() {
            self.links[index as usize] = link;
            index
        } else {
            self.links.push(link);
            self.links.len() as u32 - 1
        };
        if queue.len == 0 {
            queue.head = index;
        } else {
            self.links[queue.tail as usize].next = index;
        }
        queue.tail = index;
        queue.len += 1;
        self.bytes += size_of::<Link>();
        self.records[place as usize].bytes as usize + size_of::<Link>()
    }

    /// Takes the oldest record out of `queue`: the weight that goes with it.
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> usize {
        if queue.len == 0 {
            return 0;
        }
        let index = queue.head;
        let link = self.links[index as usize];
        queue.head = link.next;
        queue.len -= 1;
        self.free_links.push(index);
        self.bytes -= size_of::<Link>();
        self.release(link.record) + size_of::<Link>()
    }

    /// Takes everything out of `queue`.
    pub(crate) fn clear(&mut self, queue: &mut Queue) {
        while queue.len > 0 {
            self.pop(queue);
        }
    }

    /// The records of `queue`, oldest first.
    pub(crate) fn iter<'a>(&'a self, queue: &Queue) -> impl Iterator<Item = &'a Arc<Record>> {
        let mut at = queue.head;
        (0..queue.len).filter_map(move |_| {
            let link = self.links[at as usize];
            at = link.next;
            self.records[link.record as usize].record.as_ref()
        })
    }

    fn hold(&mut self, record: &Arc<Record>) -> u32 {
        if let Some(index) = self.newest
            && let held = &mut self.records[index as usize]
            && held.record.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, record))
        {
            held.holders += 1;
            return index;
        }
        let bytes = record.bytes().min(u32::MAX as usize) as u32;
        let held = Held { record: Some(Arc::clone(record)), holders: 1, bytes };
        self.bytes += bytes as usize + size_of::<Held>();
        let index = if let Some(index) = self.free_records.pop() {
            self.records[index as usize] = held;
            index
        } else {
            self.records.push(held);
            self.records.len() as u32 - 1
        };
        self.newest = Some(index);
        index
    }

    fn release(&mut self, index: u32) -> usize {
        let held = &mut self.records[index as usize];
        held.holders -= 1;
        let bytes = held.bytes as usize;
        if held.holders == 0 {
            held.record = None;
            self.bytes -= bytes + size_of::<Held>();
            self.free_records.push(index);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use model::{Event, FieldTable, Line};

    use super::*;

    fn record(text: &str) -> Arc<Record> {
        let mut event = Event::new(Arc::<FieldTable>::default());
        event.start_line(Line {
            raw: text.into(),
            origin: Arc::default(),
            time: jiff::Timestamp::UNIX_EPOCH,
            offset: text.len() as u64,
        });
        Arc::new(Record::new(&event, |_| true, false, Arc::default()))
    }

    #[test]
    fn queues_keep_order_and_share_records() {
        let mut slab = Slab::default();
        let (mut a, mut b) = (Queue::default(), Queue::default());
        let records: Vec<_> = ["one", "two", "three!"].map(record).into();
        for record in &records {
            slab.push(&mut a, record);
            slab.push(&mut b, record);
        }
        let once = slab.bytes();
        assert_eq!(slab.iter(&a).map(|record| record.place().2).collect::<Vec<_>>(), [3, 3, 6]);
        slab.pop(&mut a);
        assert_eq!(slab.bytes(), once - size_of::<Link>(), "the other bucket still holds the record");
        slab.pop(&mut b);
        assert!(slab.bytes() < once - 2 * size_of::<Link>(), "nobody holds it any more");
        assert_eq!(slab.iter(&b).map(|record| record.place().2).collect::<Vec<_>>(), [3, 6]);
        slab.clear(&mut a);
        slab.clear(&mut b);
        assert_eq!((slab.bytes(), slab.pop(&mut a)), (0, 0));
    }

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        let mut queue = Queue::default();
        for round in 0..100 {
            slab.push(&mut queue, &record(&"x".repeat(round)));
            if queue.len() > 3 {
                slab.pop(&mut queue);
            }
        }
        assert_eq!((slab.records.len(), slab.links.len(), queue.len()), (4, 4, 3));
    }
}
