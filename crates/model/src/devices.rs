//! Several devices as one backend: each has the same backbone and all heads, and computes batches of its own.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use headswap_checkpoint::Parameters;
use headswap_spec::{CompleteSpec, HeadInput};

use super::backend::{
    Backend, BackendError, HeadRows, InputRow, Outputs, PlacedHead, Placer, StillWanted, WantedInput, placed,
};
use super::settings::Device;

/// Combines backends with the same parameters, at least two. The first computes until [`Backend::into_lanes`] separates
/// them.
pub fn on_devices(first: Box<dyn Backend>, others: Vec<Box<dyn Backend>>) -> Box<dyn Backend> {
    let backends = std::iter::once(&first).chain(&others);
    let placers = backends.map(|backend| backend.placer()).collect();
    Box::new(OnDevice {
        backend: first,
        placer: Arc::new(DevicesPlacer { placers }),
        index: 0,
        others,
    })
}

/// The backend of one of the devices, or a lane of it.
struct OnDevice {
    backend: Box<dyn Backend>,
    placer: Arc<DevicesPlacer>,
    /// The index of the device.
    index: usize,
    /// The backends of the following devices, before they are separated.
    others: Vec<Box<dyn Backend>>,
}

struct DevicesPlacer {
    placers: Vec<Arc<dyn Placer>>,
}

/// A head, placed on each of the devices.
struct HeadOnDevices(Vec<PlacedHead>);

impl Placer for DevicesPlacer {
    fn place_on(
        &self,
        backbone: usize,
        parameters: &Parameters,
        spec: &CompleteSpec,
    ) -> Result<PlacedHead, BackendError> {
        let mut placed = Vec::with_capacity(self.placers.len());
        for placer in &self.placers {
            placed.push(placer.place_on(backbone, parameters, spec)?);
        }
        // The keys are those of the first device; each device computes with those of its own.
        let first = &placed[0];
        let (classes, bytes, shares_input) = (first.classes, first.device_bytes, first.shared_input().is_some());
        let head = PlacedHead::new(spec, classes, bytes, Box::new(HeadOnDevices(placed)));
        Ok(head.on_backbone(backbone).with_shared_input(shares_input))
    }
}

impl OnDevice {
    /// Returns the groups of a batch with the heads on this device.
    fn on_this_device<'a>(&self, groups: &[HeadRows<'a>]) -> Result<Vec<HeadRows<'a>>, BackendError> {
        let heads: Vec<&HeadOnDevices> = placed(groups)?;
        let mut own = Vec::with_capacity(groups.len());
        for (head, group) in heads.into_iter().zip(groups) {
            own.push(HeadRows {
                head: &head.0[self.index],
                rows: group.rows.clone(),
            });
        }
        Ok(own)
    }
}

impl Backend for OnDevice {
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), BackendError> {
        self.backend.prepare(max_batch, stop)
    }

    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        let backends = std::iter::once(self.backend).chain(self.others);
        let mut devices = Vec::new();
        for (index, backend) in (self.index..).zip(backends) {
            for device in backend.into_lanes() {
                let mut lanes: Vec<Box<dyn Backend>> = Vec::new();
                for backend in device {
                    lanes.push(Box::new(Self {
                        backend,
                        placer: Arc::clone(&self.placer),
                        index,
                        others: Vec::new(),
                    }));
                }
                devices.push(lanes);
            }
        }
        devices
    }

    fn forward_if(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        let groups = self.on_this_device(groups)?;
        self.backend.forward_if(rows, &groups, wanted, still_wanted)
    }

    fn logits(&mut self, inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let groups = self.on_this_device(groups)?;
        self.backend.logits(inputs, &groups)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn last_inputs(&self) -> Vec<HeadInput> {
        self.backend.last_inputs()
    }

    fn steps(&self) -> Vec<String> {
        self.backend.steps()
    }

    fn devices(&self) -> Vec<Device> {
        let mut devices = self.backend.devices();
        for other in &self.others {
            devices.extend(other.devices());
        }
        devices
    }

    fn precision(&self) -> &'static str {
        self.backend.precision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backbone, NullSettings, Precision, WeightsSource, demo_head_from, native_backend, null_backend};
    use headswap_image::Prepared;
    use headswap_spec::{Architecture, LAST_BIAS, PICTURE_BYTES, Preset};

    fn native() -> Box<dyn Backend> {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        native_backend(vec![backbone], Precision::F32, winograd::Engine::new(1)).unwrap()
    }

    fn place_one(backend: &dyn Backend, head: &Parameters) -> PlacedHead {
        let spec = CompleteSpec::plain(Preset::Torchvision.preprocessing(), head[LAST_BIAS].values.len());
        backend.placer().place(head, &spec).unwrap()
    }

    fn place(backend: &dyn Backend, heads: &[Parameters; 2]) -> [PlacedHead; 2] {
        heads.each_ref().map(|head| place_one(backend, head))
    }

    fn picture(byte: impl Fn(usize) -> u8) -> Prepared {
        Prepared::Bytes {
            size: [224, 224],
            values: (0..PICTURE_BYTES).map(byte).collect(),
        }
    }

    fn forward(
        backend: &mut dyn Backend,
        pictures: &[Prepared],
        groups: &[HeadRows<'_>],
        row: usize,
    ) -> Result<Outputs, BackendError> {
        let preprocessing = Preset::Torchvision.preprocessing();
        let mut rows = Vec::new();
        for picture in pictures {
            rows.push(InputRow {
                picture,
                preprocessing: &preprocessing,
            });
        }
        let input = HeadInput::Features;
        backend.forward(
            &rows,
            groups,
            &[WantedInput {
                row,
                backbone: 0,
                input,
            }],
        )
    }

    /// Returns the logits of rows 0 and 2 by the first head and of rows 0 and 1 by the second, and the features of row 1.
    fn run(
        backend: &mut dyn Backend,
        heads: &[PlacedHead; 2],
        pictures: &[Prepared],
    ) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let [first, second] = heads;
        let groups = [(first, vec![0, 2]), (second, vec![0, 1])].map(|(head, rows)| HeadRows { head, rows });
        let outputs = forward(backend, pictures, &groups, 1).unwrap();
        (outputs.logits, outputs.inputs)
    }

    #[test]
    fn a_head_computes_the_same_on_every_device() {
        let [mut alone, first, second] = [(); 3].map(|()| native());
        let mut both = on_devices(first, vec![second]);
        let heads = [("classifier.6", 3), ("features.28", 5)]
            .map(|(split, classes)| demo_head_from(Architecture::Vgg16Narrow, split, classes, 7));
        let (of_alone, of_both) = (place(&*alone, &heads), place(&*both, &heads));
        for (one, other) in of_alone.iter().zip(&of_both) {
            assert_eq!((one.classes, one.device_bytes), (other.classes, other.device_bytes));
            assert_eq!(one.shared_input(), other.shared_input());
        }

        let pictures = [0, 1, 2].map(|seed| picture(|at| (at * (seed + 7) % 251) as u8));
        let expected = run(&mut *alone, &of_alone, &pictures);
        assert_eq!(run(&mut *both, &of_both, &pictures), expected);
        let devices = both.into_lanes();
        assert_eq!(devices.len(), 2);
        for mut lane in devices.into_iter().flatten() {
            lane.prepare(3, &AtomicBool::new(false)).unwrap();
            assert_eq!(run(&mut *lane, &of_both, &pictures), expected);
            // A head that another backend placed is refused.
            let foreign = [HeadRows {
                head: &of_alone[0],
                rows: vec![0],
            }];
            assert_eq!(
                forward(&mut *lane, &pictures[..1], &foreign, 0).unwrap_err(),
                BackendError::ForeignHead
            );
        }
    }

    /// Two kinds of backend, of which each accepts only the heads that it has placed itself.
    #[test]
    fn a_lane_uses_the_heads_of_its_own_device() {
        let both = on_devices(native(), vec![null_backend(128, NullSettings::default())]);
        assert_eq!(both.devices(), [Device::Cpu, Device::Null]);
        let head = demo_head_from(Architecture::Vgg16Narrow, "classifier.6", 3, 7);
        let head = place_one(&*both, &head);
        for mut lane in both.into_lanes().into_iter().flatten() {
            let groups = [HeadRows {
                head: &head,
                rows: vec![0],
            }];
            let outputs = forward(&mut *lane, &[picture(|_| 100)], &groups, 0).unwrap();
            assert_eq!(lane.logits(&[&outputs.inputs[0]], &groups).unwrap(), outputs.logits);
        }
    }
}
