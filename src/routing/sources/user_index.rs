//! Millions of names in two allocations.

use std::hash::{BuildHasher, RandomState};

/// Bytes of an entry before its name: line (4), shard (2), length of the name (2).
const HEAD_BYTES: usize = 8;

/// A place of the table that no entry has.
const EMPTY: u32 = u32::MAX;

/// Places at the start; a power of two.
const PLACES_MIN: usize = 16;

/// A user of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexedUser {
    /// Number of the shard.
    pub(super) shard: u16,
    /// Line of the file, from 1.
    pub(super) line: u32,
}

/// Why a user was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The name is there, from this line.
    Doubled(u32),
    /// The names together would have more than 4 GiB.
    Full,
}

/// Names with a shard and a line each. All names lie behind each other in one buffer; an open
/// table of their offsets finds them by hash (linear probing, at most three quarters full). It
/// takes about 12 bytes a user besides the name.
#[derive(Debug)]
pub(super) struct UserIndex {
    entries: Vec<u8>,
    places: Vec<u32>,
    len: usize,
    /// Keyed at random: who may choose names cannot choose names that collide.
    hasher: RandomState,
}

impl UserIndex {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            places: vec![EMPTY; PLACES_MIN],
            len: 0,
            hasher: RandomState::new(),
        }
    }

    /// Number of users.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Adds a name of at most 65,535 bytes.
    pub(super) fn insert(&mut self, name: &str, user: IndexedUser) -> Result<(), Refused> {
        if (self.len + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        let place = match self.find(name) {
            Found::At(known) => return Err(Refused::Doubled(known.line)),
            Found::Free(place) => place,
        };
        let name_bytes = u16::try_from(name.len()).map_err(|_| Refused::Full)?;
        let offset = u32::try_from(self.entries.len()).map_err(|_| Refused::Full)?;
        if offset == EMPTY {
            return Err(Refused::Full);
        }
        self.entries.extend_from_slice(&user.line.to_le_bytes());
        self.entries.extend_from_slice(&user.shard.to_le_bytes());
        self.entries.extend_from_slice(&name_bytes.to_le_bytes());
        self.entries.extend_from_slice(name.as_bytes());
        if let Some(place) = self.places.get_mut(place) {
            *place = offset;
        }
        self.len += 1;
        Ok(())
    }

    /// The user of that name.
    pub(super) fn lookup(&self, name: &str) -> Option<IndexedUser> {
        match self.find(name) {
            Found::At(user) => Some(user),
            Found::Free(_) => None,
        }
    }

    /// Gives back what growing took in advance.
    pub(super) fn shrink_to_fit(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn find(&self, name: &str) -> Found {
        let mut place = self.first_place(name.as_bytes());
        loop {
            // A quarter of the places is empty, so the walk ends.
            let offset = self.places.get(place).copied().unwrap_or(EMPTY);
            match self.entry(offset) {
                None => return Found::Free(place),
                Some((user, found, _)) if found == name.as_bytes() => return Found::At(user),
                Some(_) => place = (place + 1) & (self.places.len() - 1),
            }
        }
    }

    fn first_place(&self, name: &[u8]) -> usize {
        let mask = self.places.len() - 1;
        let hash = self.hasher.hash_one(name);
        usize::try_from(hash & u64::try_from(mask).unwrap_or(0)).unwrap_or(0)
    }

    /// The entry at an offset: the user, the name, and the offset of the next entry.
    fn entry(&self, offset: u32) -> Option<(IndexedUser, &[u8], usize)> {
        let at = usize::try_from(offset).ok()?;
        let (line, rest) = self.entries.get(at..)?.split_first_chunk()?;
        let (shard, rest) = rest.split_first_chunk()?;
        let (name_bytes, rest) = rest.split_first_chunk()?;
        let name = rest.get(..usize::from(u16::from_le_bytes(*name_bytes)))?;
        let user =
            IndexedUser { shard: u16::from_le_bytes(*shard), line: u32::from_le_bytes(*line) };
        Some((user, name, at + HEAD_BYTES + name.len()))
    }

    /// Doubles the table and puts every entry in its place anew.
    fn grow(&mut self) {
        self.places = vec![EMPTY; self.places.len() * 2];
        let mask = self.places.len() - 1;
        let mut offset = 0;
        while let Some((_, name, next)) = self.entry(offset) {
            let mut place = self.first_place(name);
            while self.places.get(place).is_some_and(|taken| *taken != EMPTY) {
                place = (place + 1) & mask;
            }
            if let Some(place) = self.places.get_mut(place) {
                *place = offset;
            }
            offset = u32::try_from(next).unwrap_or(EMPTY);
        }
    }
}

enum Found {
    At(IndexedUser),
    Free(usize),
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_is_a_map(
            names in prop::collection::vec(("[a-c]{0,5}", any::<u16>(), any::<u32>()), 0..400),
            absent in prop::collection::vec("[a-d]{0,6}", 0..50),
        ) {
            let mut index = UserIndex::new();
            let mut map: HashMap<String, IndexedUser> = HashMap::new();
            for (name, shard, line) in names {
                let user = IndexedUser { shard, line };
                let doubled = map.get(&name).map(|known| Refused::Doubled(known.line));
                prop_assert_eq!(index.insert(&name, user), doubled.map_or(Ok(()), Err));
                map.entry(name).or_insert(user);
            }
            index.shrink_to_fit();
            prop_assert_eq!(index.len(), map.len());
            for (name, user) in &map {
                prop_assert_eq!(index.lookup(name), Some(*user));
            }
            for name in absent {
                prop_assert_eq!(index.lookup(&name), map.get(&name).copied());
            }
        }
    }

    #[test]
    fn a_user_takes_about_twelve_bytes_besides_the_name() {
        let mut index = UserIndex::new();
        let mut name_bytes = 0;
        for line in 0..100_000 {
            let name = format!("user{line}@example.org");
            name_bytes += name.len();
            index.insert(&name, IndexedUser { shard: 1, line }).unwrap();
        }
        index.shrink_to_fit();
        let taken = index.entries.capacity() + index.places.capacity() * 4;
        assert!((taken - name_bytes) / index.len() < 20, "{taken} bytes for {name_bytes} of names");
    }
}
