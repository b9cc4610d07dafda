//! A table whose places are named by tokens that are never used twice.

/// Names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    place: u32,
    generation: u32,
}

/// Bits of a place: tables are no larger.
const PLACE_BITS: u32 = 14;

impl Token {
    /// As many bits [`Self::to_bits`] takes.
    pub const BITS: u32 = PLACE_BITS + u32::BITS;

    /// As a number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << PLACE_BITS | u64::from(self.place)
    }

    /// From a number.
    pub fn from_bits(bits: u64) -> Token {
        let place = bits & ((1 << PLACE_BITS) - 1);
        Token { place: place as u32, generation: (bits >> PLACE_BITS) as u32 }
    }
}

struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

/// The table.
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slots<T> {
    /// A table for so many entries.
    pub fn new(limit: usize) -> Self {
        debug_assert!(limit <= 1 << PLACE_BITS);
        Slots { slots: Vec::new(), free: Vec::new(), limit }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds what `make` makes of its token, unless the table is full or `make` fails.
    pub fn insert_with(&mut self, make: impl FnOnce(Token) -> Option<T>) -> Option<Token> {
        if self.len() >= self.limit {
            return None;
        }
        let place = match self.free.last() {
            Some(&place) => place,
            None => {
                let place = self.slots.len() as u32;
                self.slots.push(Slot { generation: 0, entry: None });
                self.free.push(place);
                place
            }
        };
        let slot = &mut self.slots[place as usize];
        let token = Token { place, generation: slot.generation };
        slot.entry = Some(make(token)?);
        self.free.pop();
        Some(token)
    }

    /// The entry of a token, while it is there.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.place as usize)?;
        slot.entry.as_mut().filter(|_| slot.generation == token.generation)
    }

    /// The entry of a token, while it is there.
    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slots.get(token.place as usize)?;
        slot.entry.as_ref().filter(|_| slot.generation == token.generation)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get_mut(token)?;
        let slot = &mut self.slots[token.place as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.place);
        slot.entry.take()
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(place, slot)| {
            let token = Token { place: place as u32, generation: slot.generation };
            Some((token, slot.entry.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_removed_entries_name_nothing() {
        let mut slots = Slots::new(2);
        let first = slots.insert_with(|_| Some('a')).unwrap();
        let second = slots.insert_with(|_| Some('b')).unwrap();
        assert_eq!(slots.insert_with(|_| Some('c')), None, "it is full");
        assert_eq!(slots.remove(first), Some('a'));
        assert_eq!(slots.insert_with(|_| None), None, "making failed");
        let third = slots.insert_with(|_| Some('c')).unwrap();
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(Token::from_bits(third.to_bits())), Some(&'c'));
        assert_eq!(slots.iter().map(|(_, &c)| c).collect::<String>(), "cb");
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!(slots.len(), 2);
    }
}
