//! Which indices of a list tokens have.

/// One bit for each index.
#[derive(Debug)]
pub(super) struct Assigned {
    words: Box<[u64]>,
    count: usize,
}

impl Assigned {
    /// `capacity` is a power of two, at least 64.
    pub(super) fn new(capacity: u32) -> Assigned {
        Assigned { words: vec![0; capacity as usize / 64].into(), count: 0 }
    }

    /// How many indices are assigned.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Assigns an index; false if it was assigned, or the list does not have it.
    pub(super) fn insert(&mut self, index: u32) -> bool {
        let Some(word) = self.words.get_mut(index as usize / 64) else { return false };
        let bit = 1 << (index % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    /// Gives an index back.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(word) = self.words.get_mut(index as usize / 64) else { return };
        let bit = 1 << (index % 64);
        self.count -= usize::from(*word & bit != 0);
        *word &= !bit;
    }

    /// The first free index from `start` on, or from the beginning.
    pub(super) fn first_free(&self, start: u32) -> Option<u32> {
        let start = start as usize / 64;
        let free = |(index, word): (usize, &u64)| {
            (*word != u64::MAX).then(|| (index * 64) as u32 + word.trailing_ones())
        };
        let words = || self.words.iter().enumerate();
        words().skip(start).find_map(free).or_else(|| words().find_map(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_index_is_assigned_once_until_it_is_given_back() {
        let mut assigned = Assigned::new(128);
        assert!(assigned.insert(5) && !assigned.insert(5) && !assigned.insert(128));
        assert_eq!(assigned.count(), 1);
        let mut start = 77;
        while let Some(index) = assigned.first_free(start) {
            assert!(assigned.insert(index));
            start = index;
        }
        assert_eq!(assigned.count(), 128);
        assigned.remove(3);
        assigned.remove(3);
        assert_eq!((assigned.count(), assigned.first_free(100)), (127, Some(3)));
    }
}
