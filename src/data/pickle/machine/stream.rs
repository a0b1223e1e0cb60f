//! Handing the elements of the top-level list over, and forgetting them.

use super::Machine;
use crate::data::pickle::error::PickleError;
use crate::data::pickle::node::{Id, Node};
use crate::data::pickle::opcode::Instruction;
use crate::data::pickle::value::Value;

/// Receives the elements of the top-level list as soon as they are complete.
pub(in crate::data::pickle) trait Sink {
    type Error: From<PickleError>;
    const STREAMS: bool;
    fn item(&mut self, value: Value<'_>) -> Result<(), Self::Error>;
}

/// For reading a pickle as a whole.
pub(in crate::data::pickle) struct KeepAll;

impl Sink for KeepAll {
    type Error = PickleError;
    const STREAMS: bool = false;
    fn item(&mut self, _: Value<'_>) -> Result<(), PickleError> {
        Ok(())
    }
}

impl<S: Sink> Machine<'_, S> {
    /// Hands elements of the top-level list over and forgets them.
    pub(super) fn stream(&mut self, list: Id, items: Vec<Id>) -> Result<(), S::Error> {
        if self.streamed.is_none() {
            self.streamed = Some(list);
            self.base = self.base.max(list.0 as usize + 1);
        }
        for id in items {
            let nodes = &self.nodes;
            self.sink.item(Value { nodes, id })?;
        }
        self.release();
        Ok(())
    }

    /// Drops the nodes from `base` on. Memoised strings and numbers move to the front first; when a memoised
    /// container or an older node needs them, all stay.
    fn release(&mut self) {
        let mut recent = std::mem::take(&mut self.recent);
        recent.sort_unstable();
        recent.dedup();
        let base = self.base;
        let needs_others = |id: &Id| id.0 as usize >= base && !self.nodes[id.0 as usize].is_leaf();
        let kept = recent.iter().filter_map(|index| self.memo.get(index));
        if std::mem::take(&mut self.pinned) || kept.clone().any(needs_others) {
            self.base = self.nodes.len();
            return;
        }
        let mut leaves: Vec<Id> = kept.copied().filter(|id| id.0 as usize >= base).collect();
        leaves.sort_unstable();
        leaves.dedup();
        // ascending, so a leaf never overwrites one that is still to move
        for (place, leaf) in (base..).zip(&leaves) {
            self.nodes.swap(place, leaf.0 as usize);
        }
        self.nodes.truncate(base + leaves.len());
        for index in recent {
            if let Some(id) = self.memo.get_mut(&index)
                && let Ok(place) = leaves.binary_search(id)
            {
                *id = Id((base + place) as u32);
            }
        }
        self.base = self.nodes.len();
    }

    /// After STOP: whatever of the top-level list did not go to the sink yet.
    pub(super) fn finish(&mut self, at: &Instruction, root: Id) -> Result<(), S::Error> {
        if !S::STREAMS {
            return Ok(());
        }
        if self.streamed.is_some_and(|list| list != root) {
            return Err(self.wrong(at, "a list of records at the top", root).into());
        }
        let (Node::List(rest), nodes) = (&self.nodes[root.0 as usize], &self.nodes) else {
            return Err(self.wrong(at, "a list of records at the top", root).into());
        };
        for &id in rest {
            self.sink.item(Value { nodes, id })?;
        }
        Ok(())
    }
}
