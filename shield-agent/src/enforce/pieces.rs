//! Hands on what comes one by one in pieces, so that millions of bans never stand in memory for it.

/// Calls `take` with pieces of `size`, and a last one of the rest, of all that `from` passes to its argument.
pub(crate) fn in_pieces<T, R>(
    size: usize,
    mut take: impl FnMut(&[T]),
    from: impl FnOnce(&mut dyn FnMut(T)) -> R,
) -> R {
    let mut piece = Vec::with_capacity(size);
    let result = from(&mut |each| {
        piece.push(each);
        if piece.len() == size {
            take(&piece);
            piece.clear();
        }
    });
    if !piece.is_empty() {
        take(&piece);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_come_in_their_order_and_no_piece_is_empty() {
        for (count, expected) in [(0, vec![]), (3, vec![3]), (4, vec![3, 1]), (9, vec![3, 3, 3])] {
            let (mut sizes, mut all) = (Vec::new(), Vec::new());
            let take = |piece: &[u32]| {
                sizes.push(piece.len());
                all.extend_from_slice(piece);
            };
            assert_eq!(
                in_pieces(3, take, |each| {
                    (0..count).for_each(each);
                    count
                }),
                count
            );
            assert_eq!((sizes, all), (expected, (0..count).collect()));
        }
    }
}
