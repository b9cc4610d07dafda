//! The integers guest memory is accessed by.

/// u8, u16, u32, u64 or u128.
pub trait Int: Copy + Eq + Default + std::fmt::Debug + Send + Sync + 'static {
    /// Size in bytes.
    const SIZE: usize;
    /// The low bits of a wide value.
    fn truncate(wide: u128) -> Self;
    /// Zero-extended.
    fn widen(self) -> u128;
}

macro_rules! int {
    ($($t:ty),*) => {$(
        impl Int for $t {
            const SIZE: usize = size_of::<$t>();
            #[inline(always)]
            fn truncate(wide: u128) -> Self {
                wide as $t
            }
            #[inline(always)]
            fn widen(self) -> u128 {
                self.into()
            }
        }
    )*};
}
int!(u8, u16, u32, u64, u128);
