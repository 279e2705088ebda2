//! Texts that are kept or shown: cut to a length, as how long they are may be a peer's choice.

/// Bytes of a label (a kind, a target, what was refused) that are kept.
pub(crate) const LABEL: usize = 512;

/// Bytes of a text (a reason, a failure) that are kept.
pub(crate) const TEXT: usize = 1_024;

/// Cuts a text to at most `most` bytes, between two characters; an ellipsis says so.
pub(crate) fn cut(text: &mut String, most: usize) {
    const ELLIPSIS: char = '…';
    if text.len() > most {
        let mut end = most.saturating_sub(ELLIPSIS.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push(ELLIPSIS);
        // What was cut off is not to be held.
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, most: usize) -> String {
        let mut text = text.to_owned();
        cut(&mut text, most);
        text
    }

    #[test]
    fn r8_a_text_is_cut_between_characters_and_says_so() {
        assert_eq!(after("äöü", 6), "äöü");
        assert_eq!(after("äöüä", 7), "äö…", "the end would be within a character");
        assert_eq!(after("abcdefg", 6), "abc…");
        let mut long = "x".repeat(1 << 20);
        cut(&mut long, LABEL);
        assert!(long.len() <= LABEL && long.capacity() <= 2 * LABEL, "{} of {}", long.len(), long.capacity());
    }
}
