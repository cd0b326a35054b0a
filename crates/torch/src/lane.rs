//! One of the lanes of a GPU, each driven by a thread: uploads pictures, and takes turns with the others to compute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headswap_model::InputRow;
use headswap_spec::PICTURE_BYTES;
use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, COMPUTE};
use super::graphs::Graphs;
use super::pictures::Uploaded;
use super::staging::Layout;
use crate::error::Result;

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
    /// Bytes in pinned memory.
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

    /// Copies the pictures of a batch to the device. Work of the lane's turn sees the complete copy.
    pub fn upload(&mut self, rows: &[InputRow<'_>]) -> Result<Uploaded> {
        self.shared.accelerator.enter(self.stream)?;
        let layout = Layout::of(rows);
        let staging = match self.staging.take() {
            Some(staging) if staging.numel() >= layout.bytes => staging,
            _ => staging_for(layout.bytes, self.device)?,
        };
        let staged = self.staging.insert(staging).f_narrow(0, 0, layout.bytes as i64)?;
        // SAFETY: the tensor is contiguous memory of this many bytes, which only this lane writes. The device has read the
        // previous batch, since its results were waited for; if that failed, the pictures that it reads are not used.
        let memory = unsafe { std::slice::from_raw_parts_mut(staged.data_ptr().cast::<u8>(), layout.bytes) };
        layout.fill(rows, memory);
        layout.split(&staged.f_to_device_(self.device, Kind::Uint8, true, true)?)
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

fn staging_for(bytes: usize, device: Device) -> Result<Tensor> {
    let pictures = bytes.div_ceil(PICTURE_BYTES).next_power_of_two();
    let staging = Tensor::f_zeros([(pictures * PICTURE_BYTES) as i64], (Kind::Uint8, Device::Cpu))?;
    match device {
        Device::Cpu => Ok(staging),
        _ => Ok(staging.f_pin_memory(device)?),
    }
}
