//! PURE. Choices read from the front of a fuzzer's bytes. Never fails: what is not there is zero.

/// The bytes not read yet.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    /// A number below `n`, from one byte.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n.max(1)
    }

    /// `n` bytes, or what is left.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One length byte and as many bytes.
    pub fn text(&mut self) -> &'a [u8] {
        let n = usize::from(self.u8());
        self.bytes(n)
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// A way to cut: one byte with the number of lengths (15 at most), then the lengths.
    pub fn cuts(&mut self) -> Cuts {
        let n = self.below(16);
        Cuts((0..n).map(|_| self.u8()).collect())
    }
}

/// A way to cut bytes into pieces: lengths that are used in turn.
#[derive(Clone, Debug)]
pub struct Cuts(Vec<u8>);

impl Cuts {
    /// Everything in one piece.
    pub fn none() -> Self {
        Cuts(Vec::new())
    }

    /// Every byte alone.
    pub fn every() -> Self {
        Cuts(vec![0])
    }

    /// The pieces of `bytes`, none of them empty.
    pub fn pieces<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        let mut lengths = self.0.iter().cycle();
        while !rest.is_empty() {
            // Short ones exactly, long ones roughly: a page of text has both ends of a line within reach.
            let length = lengths.next().map_or(usize::MAX, |b| match usize::from(*b) {
                short @ 0..128 => short + 1,
                long => (long - 127) * 32,
            });
            let (piece, left) = rest.split_at(length.min(rest.len()));
            pieces.push(piece);
            rest = left;
        }
        pieces
    }
}
