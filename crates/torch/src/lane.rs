//! One of the lanes of a GPU, each driven by a thread: uploads pictures, and takes turns with the others to compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, COMPUTE};
use super::graphs::Graphs;
use crate::error::Result;

/// Height, width and channels of a picture.
pub(super) const PICTURE: [i64; 3] = [224, 224, 3];
pub(super) const PICTURE_BYTES: usize = 224 * 224 * 3;

/// The state that the lanes of one device share.
pub(super) struct Shared {
    pub accelerator: Arc<dyn Accelerator>,
    pub graphs: Mutex<Graphs>,
}

/// A lane.
pub(super) struct Lane {
    pub shared: Arc<Shared>,
    /// The stream of its copies.
    stream: usize,
    device: Device,
    /// `[rows, 224, 224, 3]` u8, in pinned memory.
    staging: Option<Tensor>,
}

/// A lane's turn to submit a batch. Lanes take turns, so that a batch does not wait for the next one's work.
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

    /// Copies pictures to the device: `[N, 224, 224, 3]` u8. Work of the lane's turn sees the complete copy.
    pub fn upload(&mut self, pictures: &[&[u8]]) -> Result<Tensor> {
        self.shared.accelerator.enter(self.stream)?;
        let rows = pictures.len();
        let staging = match self.staging.take() {
            Some(staging) if staging.size()[0] as usize >= rows => staging,
            _ => staging_for(rows.next_power_of_two(), self.device)?,
        };
        let staged = self.staging.insert(staging).f_narrow(0, 0, rows as i64)?;
        // SAFETY: the tensor is contiguous u8 memory of `rows` pictures, which only this lane writes. The device has read the
        // previous batch, since its results were waited for; if that failed, the pictures that it reads are not used.
        let memory = unsafe { std::slice::from_raw_parts_mut(staged.data_ptr().cast::<u8>(), rows * PICTURE_BYTES) };
        for (staged, picture) in memory.chunks_exact_mut(PICTURE_BYTES).zip(pictures) {
            staged.copy_from_slice(picture);
        }
        Ok(staged.f_to_device_(self.device, Kind::Uint8, true, true)?)
    }

    /// Waits for its turn. Work that the thread submits during the turn runs after the other lanes' work and after this
    /// lane's uploads.
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
    /// Ends the turn. Later work of this thread waits for the work of the turn.
    fn drop(&mut self) {
        let ended = self.accelerator.wait(self.stream, COMPUTE);
        if let Err(error) = ended.and_then(|()| self.accelerator.enter(self.stream)) {
            // Reading the results also waits for the device, and returns the error to the caller.
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
