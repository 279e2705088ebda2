//! Names that were defined on a lane, by number.

use std::collections::HashMap;

use crate::Symbol;

/// Slots of the cache by address. A power of two.
const CACHE: usize = 64;

/// Numbers for symbols, up to a bound.
pub(super) struct Interner {
    /// By address of the shared text: a hit costs no string comparison. Holds the symbol, so that the
    /// address stays its own.
    cache: Box<[Option<(Symbol, u32)>; CACHE]>,
    by_text: HashMap<Symbol, u32>,
    /// Set from the peer's grant; nothing is interned before.
    pub(super) max: usize,
}

/// A symbol's number, and whether it has to be defined first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Known(u32),
    New(u32),
    /// No more are taken: the text travels.
    None,
}

impl Interner {
    pub(super) fn new() -> Self {
        Self { cache: Box::new([const { None }; CACHE]), by_text: HashMap::new(), max: 0 }
    }

    pub(super) fn number(&mut self, symbol: &Symbol) -> Number {
        let address = symbol.address();
        let slot = (address ^ address >> 4 ^ address >> 10) & (CACHE - 1);
        if let Some((held, number)) = &self.cache[slot]
            && held.address() == address
            && held.len() == symbol.len()
        {
            return Number::Known(*number);
        }
        let (answer, number) = match self.by_text.get(symbol) {
            Some(&number) => (Number::Known(number), number),
            None if self.by_text.len() >= self.max => return Number::None,
            None => {
                // Bounded by `max`, which fits.
                let number = self.by_text.len() as u32 + 1;
                self.by_text.insert(symbol.clone(), number);
                (Number::New(number), number)
            }
        };
        self.cache[slot] = Some((symbol.clone(), number));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Equal texts share a number whatever their allocation, different ones never do, and the bound holds.
        #[test]
        fn r5_numbers_are_unambiguous_and_bounded(texts in proptest::collection::vec("[a-c]{0,3}", 1..300)) {
            let mut interner = Interner::new();
            interner.max = 20;
            let mut known = HashMap::new();
            let mut kept = Vec::new();
            for (n, text) in texts.into_iter().enumerate() {
                let symbol: Symbol = text.as_str().into();
                match interner.number(&symbol) {
                    Number::New(number) => prop_assert!(known.insert(text, number).is_none() && number as usize == known.len()),
                    Number::Known(number) => prop_assert_eq!(known.get(&text), Some(&number)),
                    Number::None => prop_assert!(known.len() == 20 && !known.contains_key(&text)),
                }
                if n % 2 == 0 {
                    kept.push(symbol);
                }
            }
        }
    }
}
