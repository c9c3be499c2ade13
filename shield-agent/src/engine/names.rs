//! The text of targets seen lately, so that evidence can name paths though windows keep only their hashes. Bounded: a
//! newer target takes an older one's place.

/// Bytes of a target's text that evidence shows.
const MAX_TOLD: usize = 120;

/// Slots (a power of two).
const SLOTS: usize = 1 << 12;

#[derive(Clone, Copy)]
struct Name {
    len: u8,
    text: [u8; MAX_TOLD],
}

/// Targets' text by key.
pub struct Names {
    /// Apart from the texts, so that a target that is there already is found in the processor's own cache.
    keys: Box<[u32]>,
    texts: Box<[Name]>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            keys: vec![0; SLOTS].into_boxed_slice(),
            texts: vec![Name { len: 0, text: [0; MAX_TOLD] }; SLOTS].into_boxed_slice(),
        }
    }
}

impl Names {
    /// Remembers the text of a target, cut to [`MAX_TOLD`] bytes.
    pub fn put(&mut self, key: u32, text: &[u8]) {
        let slot = slot(key);
        if self.keys[slot] == key && key != 0 {
            return;
        }
        let len = text.len().min(MAX_TOLD);
        self.keys[slot] = key;
        let name = &mut self.texts[slot];
        name.len = len as u8;
        name.text[..len].copy_from_slice(&text[..len]);
    }

    /// The text of a target, as far as it is remembered; what is not UTF-8 is replaced.
    pub fn get(&self, key: u32) -> Option<String> {
        let name = &self.texts[slot(key)];
        let text = &name.text[..usize::from(name.len)];
        (self.keys[slot(key)] == key && !text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }
}

fn slot(key: u32) -> usize {
    key as usize & (SLOTS - 1)
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
