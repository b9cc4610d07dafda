//! The pointer that an adapter draws over its picture.

use std::sync::Arc;

/// What a pointer looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorShape {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// The column of the shape that points.
    pub hot_x: u32,
    /// The row of the shape that points.
    pub hot_y: u32,
    /// Rows of `0xAARRGGBB`, `width * height` of them; colours are not multiplied with alpha.
    pub pixels: Vec<u32>,
}

/// A pointer over the picture, which is not part of it.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// What it looks like; `None` if the adapter has none of its own.
    pub shape: Option<Arc<CursorShape>>,
    /// Where it points.
    pub x: i32,
    /// Where it points.
    pub y: i32,
    /// Whether it is shown.
    pub visible: bool,
}

impl Cursor {
    /// Whether both show the same shape, or none.
    pub fn same_shape(&self, other: &Cursor) -> bool {
        match (&self.shape, &other.shape) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two) || one == two,
            (None, None) => true,
            _ => false,
        }
    }
}

impl PartialEq for Cursor {
    fn eq(&self, other: &Self) -> bool {
        (self.x, self.y, self.visible) == (other.x, other.y, other.visible)
            && self.same_shape(other)
    }
}
