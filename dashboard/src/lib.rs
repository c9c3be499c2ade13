//! The page of Shield.
