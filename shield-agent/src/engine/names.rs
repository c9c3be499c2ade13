//! The text of targets seen lately, so that evidence can name paths though windows keep only their hashes. Bounded: a
//! newer target takes an older one's place.

/// Bytes of a target's text that evidence shows.
const MAX_TOLD: usize = 120;

/// Slots (a power of two).
const SLOTS: usize = 1 << 12;

#[derive(Clone, Copy)]
struct Name {
    key: u32,
    len: u8,
    text: [u8; MAX_TOLD],
}

/// Targets' text by key.
pub struct Names {
    slots: Box<[Name]>,
}

impl Default for Names {
    fn default() -> Names {
        Names { slots: vec![Name { key: 0, len: 0, text: [0; MAX_TOLD] }; SLOTS].into_boxed_slice() }
    }
}

impl Names {
    /// Remembers the text of a target, cut to [`MAX_TOLD`] bytes.
    pub fn put(&mut self, key: u32, text: &[u8]) {
        let slot = &mut self.slots[key as usize & (SLOTS - 1)];
        if slot.key == key && slot.len > 0 {
            return;
        }
        let len = text.len().min(MAX_TOLD);
        slot.key = key;
        slot.len = len as u8;
        slot.text[..len].copy_from_slice(&text[..len]);
    }

    /// The text of a target, as far as it is remembered; what is not UTF-8 is replaced.
    pub fn get(&self, key: u32) -> Option<String> {
        let slot = &self.slots[key as usize & (SLOTS - 1)];
        let text = &slot.text[..usize::from(slot.len)];
        (slot.key == key && !text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_named_until_another_takes_its_place() {
        let mut names = Names::default();
        names.put(5, b"/a");
        assert_eq!(names.get(5).as_deref(), Some("/a"));
        assert_eq!(names.get(6), None);
        names.put(5 + SLOTS as u32, &[b'x'; 300]);
        assert_eq!(names.get(5), None);
        assert_eq!(names.get(5 + SLOTS as u32).map(|text| text.len()), Some(MAX_TOLD));
    }
}
