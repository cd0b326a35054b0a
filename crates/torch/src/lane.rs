//! One of the threads that drive a GPU: its pictures on their way there, and its turn to compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, COMPUTE};
use super::graphs::Graphs;
use crate::error::Result;

/// The side and channels of a picture, and its bytes.
pub(super) const PICTURE: [i64; 3] = [224, 224, 3];
pub(super) const PICTURE_BYTES: usize = 224 * 224 * 3;

/// What the lanes of one device share.
pub(super) struct Shared {
    pub accelerator: Arc<dyn Accelerator>,
    pub graphs: Mutex<Graphs>,
}

/// A lane.
pub(super) struct Lane {
    pub shared: Arc<Shared>,
    /// Its own stream, in which it copies.
    stream: usize,
    device: Device,
    /// `[rows, 224, 224, 3]` u8, in memory that the device reads by itself.
    staging: Option<Tensor>,
}

/// A lane's turn to give work to the device: one at a time, so that a batch is not held up by the next.
pub(super) struct Turn<'a> {
    pub graphs: MutexGuard<'a, Graphs>,
    pub accelerator: &'a dyn Accelerator,
    stream: usize,
}

impl Lane {
    pub fn new(shared: Arc<Shared>, stream: usize, device: Device) -> Self {
        Self {
            shared,
            stream,
            device,
            staging: None,
        }
    }

    /// Copies pictures to the device: `[N, 224, 224, 3]` u8, there when the lane's turn comes.
    pub fn upload(&mut self, pictures: &[&[u8]]) -> Result<Tensor> {
        self.shared.accelerator.enter(self.stream)?;
        let rows = pictures.len();
        let large_enough = |staging: &Tensor| staging.size()[0] as usize >= rows;
        let staging = match self.staging.take().filter(large_enough) {
            Some(staging) => staging,
            None => staging_for(rows.next_power_of_two(), self.device)?,
        };
        let staged = self.staging.insert(staging).f_narrow(0, 0, rows as i64)?;
        // SAFETY: the tensor is contiguous u8 memory of `rows` pictures, which this lane alone writes. The device has read
        // the batch before, whose results were waited for, or if it failed, nobody wants what the device reads.
        let memory = unsafe { std::slice::from_raw_parts_mut(staged.data_ptr().cast::<u8>(), rows * PICTURE_BYTES) };
        for (place, picture) in memory.chunks_exact_mut(PICTURE_BYTES).zip(pictures) {
            place.copy_from_slice(picture);
        }
        Ok(staged.f_to_device_(self.device, Kind::Uint8, true, true)?)
    }

    /// Waits for its turn. What the thread asks of the device until the turn ends runs after what the other lanes asked,
    /// and after what this one has uploaded.
    pub fn turn(&self) -> Result<Turn<'_>> {
        let shared = &*self.shared;
        let graphs = shared.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = Turn {
            graphs,
            accelerator: &*shared.accelerator,
            stream: self.stream,
        };
        shared.accelerator.wait(COMPUTE, self.stream)?;
        shared.accelerator.enter(COMPUTE)?;
        Ok(turn)
    }
}

impl Drop for Turn<'_> {
    /// Lets the next lane in. What this thread asks of the device from here on waits for what it asked in its turn.
    fn drop(&mut self) {
        let ended = self.accelerator.wait(self.stream, COMPUTE);
        if let Err(error) = ended.and_then(|()| self.accelerator.enter(self.stream)) {
            // Reading the results, which waits for the device as well, will say so to who asked for them.
            tracing::error!(%error, "a stream of the device failed");
        }
    }
}

fn staging_for(rows: usize, device: Device) -> Result<Tensor> {
    let [height, width, channels] = PICTURE;
    let staging = Tensor::f_zeros([rows as i64, height, width, channels], (Kind::Uint8, Device::Cpu))?;
    match device {
        Device::Cpu => Ok(staging),
        _ => Ok(staging.f_pin_memory(device)?),
    }
}
