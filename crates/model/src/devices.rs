//! The same backbone on several devices, as one network: a batch runs on whichever is free, and heads are on all of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use headswap_checkpoint::Parameters;

use super::backend::{Backend, BackendError, HeadRows, Outputs, PlacedHead, Placer, StillWanted, placed};
use super::settings::Device;

/// One network of several, at least two, that have the same parameters. Driven as one, the first computes.
pub fn on_devices(first: Box<dyn Backend>, others: Vec<Box<dyn Backend>>) -> Box<dyn Backend> {
    let placers = std::iter::once(&first).chain(&others);
    let placers = placers.map(|network| network.placer()).collect();
    Box::new(OnDevice {
        network: first,
        placer: Arc::new(DevicesPlacer { placers }),
        index: 0,
        others,
    })
}

/// A network on one of the devices, or a lane of it.
struct OnDevice {
    network: Box<dyn Backend>,
    placer: Arc<DevicesPlacer>,
    /// Which one.
    index: usize,
    /// Those on the devices after it, which become lanes of their own.
    others: Vec<Box<dyn Backend>>,
}

struct DevicesPlacer {
    placers: Vec<Arc<dyn Placer>>,
}

/// A head on each of the devices.
struct Everywhere(Vec<PlacedHead>);

impl Placer for DevicesPlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, BackendError> {
        let placed: Vec<_> = self
            .placers
            .iter()
            .map(|placer| placer.place(parameters))
            .collect::<Result<_, _>>()?;
        let first = &placed[0];
        let (classes, bytes, keys) = (first.classes, first.device_bytes, first.keys.clone());
        Ok(PlacedHead::new(classes, bytes, Box::new(Everywhere(placed))).with_keys(keys))
    }
}

impl OnDevice {
    /// The heads of a batch as this device has them.
    fn own<'a>(&self, groups: &[HeadRows<'a>]) -> Result<Vec<HeadRows<'a>>, BackendError> {
        let heads: Vec<&Everywhere> = placed(groups)?;
        let group = |(head, group): (&'a Everywhere, &HeadRows<'a>)| HeadRows {
            head: &head.0[self.index],
            rows: group.rows.clone(),
        };
        Ok(heads.into_iter().zip(groups).map(group).collect())
    }
}

impl Backend for OnDevice {
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), BackendError> {
        self.network.prepare(max_batch, stop)
    }

    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        let placer = self.placer;
        let networks = std::iter::once(self.network).chain(self.others);
        let devices = (self.index..).zip(networks).flat_map(|(index, network)| {
            let lane = |network| {
                Box::new(Self {
                    network,
                    placer: Arc::clone(&placer),
                    index,
                    others: Vec::new(),
                }) as Box<dyn Backend>
            };
            let devices = network.into_lanes().into_iter();
            devices
                .map(|lanes| lanes.into_iter().map(lane).collect())
                .collect::<Vec<_>>()
        });
        devices.collect()
    }

    fn forward_if(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        let groups = self.own(groups)?;
        self.network.forward_if(pictures, &groups, features, wanted)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let groups = self.own(groups)?;
        self.network.logits(features, &groups)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.network.steps()
    }

    fn devices(&self) -> Vec<Device> {
        let mut devices = self.network.devices();
        for other in &self.others {
            devices.extend(other.devices());
        }
        devices
    }

    fn precision(&self) -> &'static str {
        self.network.precision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backbone, NullSettings, Precision, WeightsSource, demo_head_from, native_backend, null_backend};
    use headswap_spec::{Architecture, PICTURE_BYTES};

    fn native() -> Box<dyn Backend> {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        native_backend(backbone, Precision::F32, winograd::Engine::new(1)).unwrap()
    }

    #[test]
    fn a_head_gives_the_same_on_every_device() {
        let [mut alone, first, second] = [(); 3].map(|()| native());
        let mut both = on_devices(first, vec![second]);
        let heads = [("classifier.6", 3), ("features.28", 5)]
            .map(|(split, classes)| demo_head_from(Architecture::Vgg16Narrow, split, classes, 7));
        let place = |network: &dyn Backend| heads.each_ref().map(|head| network.placer().place(head).unwrap());
        let (of_alone, of_both) = (place(&*alone), place(&*both));
        for (one, other) in of_alone.iter().zip(&of_both) {
            assert_eq!((one.classes, one.device_bytes), (other.classes, other.device_bytes));
            assert_eq!(one.shares_features(), other.shares_features());
        }

        let pictures: Vec<Vec<u8>> = (0..3)
            .map(|seed| (0..PICTURE_BYTES).map(|at| (at * (seed + 7) % 251) as u8).collect())
            .collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let run = |network: &mut dyn Backend, heads: &[PlacedHead; 2]| {
            let groups = [vec![0, 2], vec![0, 1]]
                .into_iter()
                .zip(heads)
                .map(|(rows, head)| HeadRows { head, rows });
            let outputs = network.forward(&pictures, &groups.collect::<Vec<_>>(), &[1]).unwrap();
            (outputs.logits, outputs.features)
        };
        let wanted = run(&mut *alone, &of_alone);
        assert_eq!(run(&mut *both, &of_both), wanted);
        let devices = both.into_lanes();
        assert_eq!(devices.len(), 2);
        for mut lane in devices.into_iter().flatten() {
            lane.prepare(3, &AtomicBool::new(false)).unwrap();
            assert_eq!(run(&mut *lane, &of_both), wanted);
            // A head placed by one network alone is not this one's.
            let foreign = [HeadRows {
                head: &of_alone[0],
                rows: vec![0],
            }];
            assert_eq!(
                lane.forward(&pictures[..1], &foreign, &[]).unwrap_err(),
                BackendError::ForeignHead
            );
        }
    }

    /// Of two kinds of network, each knows only the heads that it has placed itself.
    #[test]
    fn a_lane_takes_the_heads_of_its_own_device() {
        let both = on_devices(native(), vec![null_backend(128, NullSettings::default())]);
        assert_eq!(both.devices(), [Device::Cpu, Device::Null]);
        let head = demo_head_from(Architecture::Vgg16Narrow, "classifier.6", 3, 7);
        let head = both.placer().place(&head).unwrap();
        let picture = vec![100; PICTURE_BYTES];
        for mut lane in both.into_lanes().into_iter().flatten() {
            let groups = [HeadRows {
                head: &head,
                rows: vec![0],
            }];
            let outputs = lane.forward(&[&picture], &groups, &[0]).unwrap();
            assert_eq!(lane.logits(&[&outputs.features], &groups).unwrap(), outputs.logits);
        }
    }
}
