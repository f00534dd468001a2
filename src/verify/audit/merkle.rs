//! The Merkle tree of RFC 6962 (section 2.1) over an audit log: its root, and proofs of inclusion and consistency.
//!
//! A tree of any size is kept as its *frontier*: the roots of the complete subtrees that its leaves form, at most
//! 64 hashes. Proofs are made from a frontier and the leaves after it, in one pass.

use std::ops::Range;

use ring::digest::{Context, SHA256};

use crate::digest::sha256;

/// A hash of the tree.
pub type Hash = [u8; 32];

/// The hash of a leaf (section 2.1): 0x00, then the leaf's data.
pub fn leaf_hash(data: &[u8]) -> Hash {
    hash_parts(&[&[0], data])
}

/// The hash of an inner node: 0x01, then both children.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    hash_parts(&[&[1], left, right])
}

fn hash_parts(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The roots of the complete subtrees of a tree, the largest first: one for each 1 in the binary form of its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// A frontier that was stored; `None` if a tree of this size has another number of subtrees.
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Frontier> {
        (nodes.len() == size.count_ones() as usize).then_some(Frontier { size, nodes })
    }

    /// The number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, the largest first.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Adds the next leaf, by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            hash = node_hash(&left, &hash);
            rest >>= 1;
        }
        self.nodes.push(hash);
        self.size += 1;
    }

    /// The root of the tree (MTH in section 2.1).
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return sha256(b"") };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Makes a proof from a frontier and the leaves after it.
#[derive(Debug)]
pub struct ProofBuilder {
    /// What the proof has the roots of, in the order of the proof. Ranges end at `boundary` or before, or begin there
    /// or after.
    path: Vec<Range<u64>>,
    /// The leaves before this are hashed into `before`.
    boundary: u64,
    before: Frontier,
    /// The ranges of `path` after the boundary, in their order.
    after: Vec<(Range<u64>, Frontier)>,
    next: u64,
    size: u64,
}

impl ProofBuilder {
    /// A proof that the leaf at `index` is in the tree of `size` leaves (PATH in section 2.1.1). `start` is the
    /// frontier at `index` or before. `None` for an index that is not in the tree, or is before `start`.
    pub fn inclusion(start: Frontier, index: u64, size: u64) -> Option<ProofBuilder> {
        (index < size && start.size <= index)
            .then(|| ProofBuilder::new(start, index, inclusion_path(index, size), size))
    }

    /// A proof that the tree of `old` leaves is a prefix of that of `size` leaves (PROOF in section 2.1.2). `start`
    /// is the frontier at `old` or before. `None` for an old tree that is empty or larger, or is before `start`.
    pub fn consistency(start: Frontier, old: u64, size: u64) -> Option<ProofBuilder> {
        ((1..=size).contains(&old) && start.size <= old)
            .then(|| ProofBuilder::new(start, old, consistency_path(old, size), size))
    }

    fn new(start: Frontier, boundary: u64, path: Vec<Range<u64>>, size: u64) -> ProofBuilder {
        let mut after: Vec<_> = path
            .iter()
            .filter(|range| range.start >= boundary)
            .map(|range| (range.clone(), Frontier::default()))
            .collect();
        after.sort_by_key(|(range, _)| range.start);
        ProofBuilder { path, boundary, next: start.size, before: start, after, size }
    }

    /// Adds the next leaf after the frontier that the proof began with. Leaves behind the tree are passed over.
    pub fn push(&mut self, leaf: Hash) {
        let at = self.next;
        self.next += 1;
        if at < self.boundary {
            return self.before.push(leaf);
        }
        // The ranges are at most 64.
        if let Some((_, tree)) = self.after.iter_mut().find(|(range, _)| range.contains(&at)) {
            tree.push(leaf);
        }
    }

    /// Whether all leaves of the tree were added.
    pub fn is_complete(&self) -> bool {
        self.next >= self.size
    }

    /// The proof; `None` until all leaves were added.
    pub fn finish(self) -> Option<Vec<Hash>> {
        if !self.is_complete() {
            return None;
        }
        // The subtrees before the boundary are those of the frontier there: the path from a leaf, or from the end of
        // the old tree, goes up at the right of each of them.
        let mut before = self.before.nodes.iter().rev();
        let roots = self.path.iter().map(|range| match self.after.iter().find(|(found, _)| found == range) {
            Some((_, tree)) => Some(tree.root()),
            None => before.next().copied(),
        });
        roots.collect()
    }
}

/// Whether a proof shows that the leaf at `index` of the tree with this size and root has this hash.
pub fn is_included(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let path = inclusion_path(index, size);
    let hash = path.iter().zip(proof).fold(*leaf, |hash, (range, sibling)| match range.start > index {
        true => node_hash(&hash, sibling),
        false => node_hash(sibling, &hash),
    });
    path.len() == proof.len() && hash == *root
}

/// Whether a proof shows that the tree `old` is a prefix of `new`; each is a size and a root.
pub fn is_consistent(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    if old.0 == 0 || old.0 > new.0 {
        return false;
    }
    let path = consistency_path(old.0, new.0);
    if path.len() != proof.len() {
        return false;
    }
    let mut steps = path.iter().zip(proof).peekable();
    // The proof begins with the last complete subtree of the old tree, unless that is all of it.
    let first = steps.next_if(|(range, _)| range.end == old.0).map_or(*old.1, |(_, hash)| *hash);
    let (mut old_root, mut new_root) = (first, first);
    for (range, sibling) in steps {
        if range.start >= old.0 {
            new_root = node_hash(&new_root, sibling);
        } else {
            (old_root, new_root) = (node_hash(sibling, &old_root), node_hash(sibling, &new_root));
        }
    }
    (old_root, new_root) == (*old.1, *new.1)
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The ranges of leaves beside the path from a leaf to the root, from the leaf upwards.
fn inclusion_path(index: u64, size: u64) -> Vec<Range<u64>> {
    let (mut path, mut whole) = (Vec::new(), 0..size);
    while whole.end - whole.start > 1 {
        let middle = whole.start + split(whole.end - whole.start);
        if index < middle {
            path.push(middle..whole.end);
            whole.end = middle;
        } else {
            path.push(whole.start..middle);
            whole.start = middle;
        }
    }
    path.reverse();
    path
}

/// The ranges of a consistency proof, in its order.
fn consistency_path(old: u64, size: u64) -> Vec<Range<u64>> {
    let (mut path, mut whole) = (Vec::new(), 0..size);
    while whole.end > old {
        let middle = whole.start + split(whole.end - whole.start);
        if old <= middle {
            path.push(middle..whole.end);
            whole.end = middle;
        } else {
            path.push(whole.start..middle);
            whole.start = middle;
        }
    }
    if whole.start > 0 {
        path.push(whole);
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn frontier(leaves: &[Hash]) -> Frontier {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    /// Section 2.1, by its definition.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(b""),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len() as u64) as usize);
                node_hash(&root_by_definition(left), &root_by_definition(right))
            }
        }
    }

    /// The roots that the reference implementation of Certificate Transparency has for its eight inputs.
    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let inputs: [&str; 8] = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let mut tree = Frontier::default();
        for input in inputs {
            tree.push(leaf_hash(&HEXLOWER.decode(input.as_bytes()).unwrap()));
        }
        let expected = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328";
        assert_eq!(HEXLOWER.encode(&tree.root()), expected);
        assert_eq!(leaf_hash(b""), sha256(&[0]));
    }

    #[test]
    fn the_root_of_a_frontier_is_that_of_the_definition() {
        let leaves = leaves(130);
        for size in 0..leaves.len() {
            let tree = frontier(&leaves[..size]);
            assert_eq!(tree.root(), root_by_definition(&leaves[..size]), "{size}");
            let stored = Frontier::from_parts(tree.size(), tree.nodes().to_vec());
            assert_eq!(stored, Some(tree));
        }
        assert_eq!(Frontier::from_parts(3, vec![[0; 32]]), None);
    }

    #[test]
    fn each_leaf_is_proven_from_each_frontier_before_it_and_no_other_hash_is() {
        let leaves = leaves(40);
        for size in 1..=leaves.len() as u64 {
            let root = root_by_definition(&leaves[..size as usize]);
            for index in 0..size {
                let leaf = &leaves[index as usize];
                for start in [0, index / 2, index] {
                    let begin = frontier(&leaves[..start as usize]);
                    let mut builder = ProofBuilder::inclusion(begin, index, size).unwrap();
                    leaves[start as usize..].iter().for_each(|leaf| builder.push(*leaf));
                    let proof = builder.finish().unwrap();
                    assert!(is_included(leaf, index, size, &proof, &root), "{index} of {size}");
                    assert!(!is_included(&[7; 32], index, size, &proof, &root));
                    assert!(!is_included(leaf, index, size, &proof, &[7; 32]));
                    assert!(!is_included(leaf, index, size, &[&proof[..], &[root]].concat(), &root));
                    assert!(size == 1 || !is_included(leaf, (index + 1) % size, size, &proof, &root));
                }
            }
            assert!(ProofBuilder::inclusion(Frontier::default(), size, size).is_none());
        }
    }

    #[test]
    fn each_prefix_is_proven_and_no_other_tree_is() {
        let leaves = leaves(40);
        for size in 1..=leaves.len() as u64 {
            let root = root_by_definition(&leaves[..size as usize]);
            for old in 1..=size {
                let old_root = root_by_definition(&leaves[..old as usize]);
                let begin = frontier(&leaves[..(old / 2) as usize]);
                let mut builder = ProofBuilder::consistency(begin, old, size).unwrap();
                assert!(!builder.is_complete() || old / 2 == size);
                leaves[(old / 2) as usize..].iter().for_each(|leaf| builder.push(*leaf));
                let proof = builder.finish().unwrap();
                assert!(is_consistent((old, &old_root), (size, &root), &proof), "{old} of {size}");
                assert!(!is_consistent((old, &[7; 32]), (size, &root), &proof));
                assert!(!is_consistent((old, &old_root), (size, &[7; 32]), &proof));
                for at in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[at][0] ^= 1;
                    assert!(!is_consistent((old, &old_root), (size, &root), &changed));
                }
            }
            assert!(ProofBuilder::consistency(Frontier::default(), 0, size).is_none());
            assert!(!is_consistent((size + 1, &root), (size, &root), &[]));
        }
    }
}
