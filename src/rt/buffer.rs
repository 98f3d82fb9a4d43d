//! Block-aligned buffers for O_DIRECT, reused through a pool, and shared read-only slices of them that may cross cores.
#![allow(unsafe_code)]

use crossbeam::queue::ArrayQueue;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment of address, offset and length for O_DIRECT on every block device in use, in bytes.
pub const BLOCK: usize = 4096;

/// A block-aligned byte buffer of fixed capacity. Owned by one place at a time; goes back to its pool when dropped.
pub struct Buffer {
    memory: NonNull<u8>,
    capacity: usize,
    len: usize,
    home: Option<Arc<ArrayQueue<Buffer>>>,
    /// Where its capacity is counted while it lives.
    meter: Option<Arc<AtomicUsize>>,
}

// SAFETY: a Buffer owns its memory alone, like Vec<u8>; the pool it returns to is a Sync queue.
unsafe impl Send for Buffer {}
// SAFETY: through &Buffer the memory is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A zeroed buffer outside any pool; `capacity` is rounded up to whole blocks.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1).next_multiple_of(BLOCK);
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Buffer { memory, capacity, len: 0, home: None, meter: None }
    }

    /// A copy of what is in it in a buffer of that size, counted by `meter` for as long as it lives, in bytes.
    pub fn trimmed(&self, meter: &Arc<AtomicUsize>) -> Self {
        let mut copy = Buffer::new(self.len);
        copy.extend(self);
        meter.fetch_add(copy.capacity, Ordering::Relaxed);
        copy.meter = Some(Arc::clone(meter));
        copy
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK).expect("capacities are bounded by limits.rs")
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room left, in bytes.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Sets the length. Bytes that were never written since allocation are zero; others keep what they held last.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "a buffer does not grow");
        self.len = len;
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If they do not fit: callers ask `room` first.
    pub fn extend(&mut self, bytes: &[u8]) {
        let at = self.len;
        self.set_len(at + bytes.len());
        self.as_mut()[at..].copy_from_slice(bytes);
    }

    /// Fills with zeros up to the next multiple of `BLOCK`.
    pub fn pad_to_block(&mut self) {
        let at = self.len;
        self.set_len(at.next_multiple_of(BLOCK));
        self.as_mut()[at..].fill(0);
    }

    /// The bytes in use.
    #[allow(clippy::should_implement_trait)]
    pub fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes from `memory` are allocated and were zeroed at allocation; &mut self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }

    /// The address for the kernel to read from or write to. Valid while the buffer lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as in `as_mut`, shared.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(pool) = self.home.take() {
            let returned = Buffer { memory: self.memory, capacity: self.capacity, len: 0, home: None, meter: None };
            // A full pool gives the buffer back, and its own drop (home is None) frees it.
            drop(pool.push(returned));
            return;
        }
        if let Some(meter) = &self.meter {
            meter.fetch_sub(self.capacity, Ordering::Relaxed);
        }
        // SAFETY: allocated in `new` with this layout; not handed on above.
        unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len, self.capacity)
    }
}

/// Buffers of one size, reused: fresh ones cost a page fault for every 4 KiB. Buffers may be dropped on any core.
#[derive(Debug, Clone)]
pub struct Pool {
    free: Arc<ArrayQueue<Buffer>>,
    buffer_bytes: usize,
}

impl Pool {
    /// A pool that keeps at most `keep` idle buffers of `buffer_bytes`.
    pub fn new(buffer_bytes: usize, keep: usize) -> Self {
        Pool { free: Arc::new(ArrayQueue::new(keep.max(1))), buffer_bytes }
    }

    /// Memory of each of its buffers, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes.max(1).next_multiple_of(BLOCK)
    }

    /// Its buffers in use.
    pub fn out(&self) -> usize {
        // Each knows the way back, and so does the pool.
        Arc::strong_count(&self.free) - 1
    }

    /// An empty buffer, reused or new.
    pub fn take(&self) -> Buffer {
        let mut buffer = self.free.pop().unwrap_or_else(|| Buffer::new(self.buffer_bytes));
        buffer.home = Some(Arc::clone(&self.free));
        buffer
    }
}

/// A read-only part of a shared buffer: a record in the buffer it was committed from or read into. Cheap to clone, may
/// cross cores.
#[derive(Clone)]
pub struct Slice {
    buffer: Arc<Buffer>,
    start: u32,
    len: u32,
}

impl Slice {
    /// The part `range` of `buffer`.
    ///
    /// # Panics
    /// If the range does not lie within the buffer's length.
    pub fn new(buffer: Arc<Buffer>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= buffer.len(), "the range lies in the buffer");
        let start = u32::try_from(range.start).expect("buffers are below 4 GiB");
        Slice { buffer, start, len: u32::try_from(range.len()).expect("buffers are below 4 GiB") }
    }

    /// Memory of the buffer it keeps alive, in bytes, be the slice itself ever so small.
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether both keep the same buffer alive.
    pub fn shares_buffer(&self, other: &Slice) -> bool {
        Arc::ptr_eq(&self.buffer, &other.buffer)
    }
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.buffer[self.start as usize..(self.start + self.len) as usize]
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slice({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = Pool::new(10_000, 1);
        let mut a = pool.take();
        assert_eq!((a.capacity(), a.as_ptr() as usize % BLOCK), (12288, 0));
        a.extend(b"hello");
        a.pad_to_block();
        assert_eq!(a.len(), BLOCK);
        let address = a.as_ptr();
        let slice = Slice::new(Arc::new(a), 0..5);
        assert_eq!((pool.buffer_bytes(), slice.buffer_bytes()), (12288, 12288));
        let other = slice.clone();
        drop(slice);
        assert_eq!(&*other, b"hello");
        std::thread::spawn(move || drop(other)).join().expect("the thread does not panic");
        assert_eq!(pool.take().as_ptr(), address);
    }

    #[test]
    fn a_trimmed_copy_is_counted_while_it_lives_and_frees_the_pool() {
        let (pool, meter) = (Pool::new(16 * BLOCK, 2), Arc::new(AtomicUsize::new(0)));
        let mut buffer = pool.take();
        buffer.extend(&[7; BLOCK + 1]);
        assert_eq!(pool.out(), 1);
        let trimmed = buffer.trimmed(&meter);
        drop(buffer);
        assert_eq!(pool.out(), 0);
        assert_eq!((&*trimmed, trimmed.capacity()), (&[7; BLOCK + 1][..], 2 * BLOCK));
        let part = Slice::new(Arc::new(trimmed), 0..10);
        assert_eq!(meter.load(Ordering::Relaxed), 2 * BLOCK);
        drop(part);
        assert_eq!(meter.load(Ordering::Relaxed), 0);
    }
}
