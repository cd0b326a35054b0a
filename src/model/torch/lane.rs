//! One of the threads that drive a GPU: its pictures on their way there, and its turn to compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, COMPUTE};
use super::graphs::Graphs;
use crate::model::network::NetworkError;

/// The bytes of a picture, and its shape.
const PICTURE: [i64; 3] = [224, 224, 3];
const PICTURE_BYTES: usize = 224 * 224 * 3;

/// What the lanes of one device share.
pub(super) struct Shared {
    pub accelerator: Box<dyn Accelerator>,
    pub graphs: Mutex<Graphs>,
}

/// A lane.
pub(super) struct Lane {
    pub shared: Arc<Shared>,
    /// Its own stream, in which it copies.
    stream: usize,
    device: Device,
    buffers: Option<Buffers>,
}

/// Room for pictures.
struct Buffers {
    /// In memory that the device reads by itself: `[rows, 224, 224, 3]` u8.
    host: Tensor,
    /// On the device.
    device: Tensor,
}

/// A lane's turn to give work to the device: one at a time, so that a batch is not held up by the next.
pub(super) struct Turn<'a> {
    pub graphs: MutexGuard<'a, Graphs>,
    accelerator: &'a dyn Accelerator,
    stream: usize,
}

impl Lane {
    pub fn new(shared: Arc<Shared>, stream: usize, device: Device) -> Self {
        Self {
            shared,
            stream,
            device,
            buffers: None,
        }
    }

    /// Copies pictures to the device and waits until they are there: `[N, 224, 224, 3]` u8, valid until the next call.
    pub fn upload(&mut self, pictures: &[&[u8]]) -> Result<Tensor, NetworkError> {
        self.shared.accelerator.enter(self.stream)?;
        let rows = pictures.len();
        let large_enough = |buffers: &Buffers| buffers.host.size()[0] as usize >= rows;
        let buffers = match self.buffers.take().filter(large_enough) {
            Some(buffers) => buffers,
            None => Buffers::new(rows.next_power_of_two(), self.device)?,
        };
        let buffers = self.buffers.insert(buffers);
        let host = buffers.host.f_narrow(0, 0, rows as i64)?;
        // SAFETY: the tensor is contiguous u8 memory of `rows` pictures, which this lane alone writes, and the copy of the
        // batch before has ended: `f_copy_` below waits for it.
        let memory = unsafe { std::slice::from_raw_parts_mut(host.data_ptr().cast::<u8>(), rows * PICTURE_BYTES) };
        for (place, picture) in memory.chunks_exact_mut(PICTURE_BYTES).zip(pictures) {
            place.copy_from_slice(picture);
        }
        let mut device = buffers.device.f_narrow(0, 0, rows as i64)?;
        device.f_copy_(&host)?;
        Ok(device)
    }

    /// Waits for its turn. What the thread asks of the device until [`Turn::end`] runs after what the other lanes asked.
    pub fn turn(&self) -> Result<Turn<'_>, NetworkError> {
        let shared = &*self.shared;
        let graphs = shared.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        shared.accelerator.enter(COMPUTE)?;
        Ok(Turn {
            graphs,
            accelerator: &*shared.accelerator,
            stream: self.stream,
        })
    }
}

impl Turn<'_> {
    /// Records the backbone's pass ([`Graphs::record`]).
    pub fn record(
        &mut self,
        max_batch: usize,
        like: &Tensor,
        run: impl Fn(&Tensor) -> Result<Tensor, NetworkError> + Clone + Send + 'static,
    ) {
        self.graphs.record(self.accelerator, max_batch, like, run);
    }

    /// Lets the next lane in. What this thread asks of the device from here on waits for what it asked in its turn.
    pub fn end(self) -> Result<(), NetworkError> {
        self.accelerator.wait(self.stream, COMPUTE)?;
        self.accelerator.enter(self.stream)
    }
}

impl Buffers {
    fn new(rows: usize, device: Device) -> Result<Self, NetworkError> {
        let [height, width, channels] = PICTURE;
        let shape = [rows as i64, height, width, channels];
        let host = Tensor::f_zeros(shape, (Kind::Uint8, Device::Cpu))?;
        let host = if device.is_cuda() {
            host.f_pin_memory(device)?
        } else {
            host
        };
        Ok(Self {
            host,
            device: Tensor::f_zeros(shape, (Kind::Uint8, device))?,
        })
    }
}
