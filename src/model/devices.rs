//! The same backbone on several devices, as one network: a batch runs on whichever is free, and heads are on all of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::network::{HeadRows, Network, NetworkError, Outputs, PlacedHead, Placer, placed};
use super::tensor::Parameters;

/// One network of several, at least one, that have the same parameters.
pub(super) fn on_devices(networks: Vec<Box<dyn Network>>) -> Box<dyn Network> {
    let placers = networks.iter().map(|network| network.placer()).collect();
    Box::new(OnDevices {
        placer: Arc::new(DevicesPlacer { placers }),
        networks,
    })
}

/// All of them. Driven as one, the first computes.
struct OnDevices {
    networks: Vec<Box<dyn Network>>,
    placer: Arc<DevicesPlacer>,
}

/// A lane of one of them.
struct OnDevice {
    network: Box<dyn Network>,
    placer: Arc<DevicesPlacer>,
    /// Which one.
    index: usize,
}

struct DevicesPlacer {
    placers: Vec<Arc<dyn Placer>>,
}

/// A head on each of the devices.
struct Everywhere(Vec<PlacedHead>);

impl Placer for DevicesPlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, NetworkError> {
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

/// The heads of a batch as one device has them.
fn on_device<'a>(groups: &[HeadRows<'a>], index: usize) -> Result<Vec<HeadRows<'a>>, NetworkError> {
    let heads: Vec<&Everywhere> = placed(groups)?;
    let group = |(head, group): (&'a Everywhere, &HeadRows<'a>)| HeadRows {
        head: &head.0[index],
        rows: group.rows.clone(),
    };
    Ok(heads.into_iter().zip(groups).map(group).collect())
}

impl Network for OnDevices {
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), NetworkError> {
        let mut networks = self.networks.iter_mut();
        networks.try_for_each(|network| network.prepare(max_batch, stop))
    }

    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Network>>> {
        let placer = self.placer;
        let devices = self.networks.into_iter().enumerate().flat_map(|(index, network)| {
            let lane = |network| {
                let placer = Arc::clone(&placer);
                Box::new(OnDevice { network, placer, index }) as Box<dyn Network>
            };
            let devices = network.into_lanes().into_iter();
            devices
                .map(|lanes| lanes.into_iter().map(lane).collect())
                .collect::<Vec<_>>()
        });
        devices.collect()
    }

    fn forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, NetworkError> {
        self.networks[0].forward(pictures, &on_device(groups, 0)?, features)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        self.networks[0].logits(features, &on_device(groups, 0)?)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.networks[0].steps()
    }

    fn device(&self) -> (String, String) {
        let devices: Vec<_> = self.networks.iter().map(|network| network.device()).collect();
        let names: Vec<&str> = devices.iter().map(|(name, _)| name.as_str()).collect();
        (names.join(","), devices[0].1.clone())
    }
}

impl Network for OnDevice {
    fn prepare(&mut self, max_batch: usize, stop: &AtomicBool) -> Result<(), NetworkError> {
        self.network.prepare(max_batch, stop)
    }

    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Network>>> {
        vec![vec![self]]
    }

    fn forward(
        &mut self,
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, NetworkError> {
        self.network
            .forward(pictures, &on_device(groups, self.index)?, features)
    }

    fn logits(&mut self, features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        self.network.logits(features, &on_device(groups, self.index)?)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::clone(&self.placer) as Arc<dyn Placer>
    }

    fn steps(&self) -> Vec<String> {
        self.network.steps()
    }

    fn device(&self) -> (String, String) {
        self.network.device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Architecture, Backbone, DeviceChoice, EngineChoice, NetworkSettings, Precision, WeightsSource, demo_head_from,
        network,
    };

    fn single() -> Box<dyn Network> {
        let mut backbone = Backbone::load(&WeightsSource::Demo, Architecture::Vgg16Narrow).unwrap();
        backbone.take_last_linear();
        let settings = NetworkSettings {
            engine: EngineChoice::Auto,
            device: DeviceChoice::Cpu,
            precision: Precision::F32,
            threads: 1,
            pin_threads: false,
        };
        network(backbone, settings).unwrap()
    }

    #[test]
    fn a_head_gives_the_same_on_every_device() {
        let mut alone = single();
        let mut both = on_devices(vec![single(), single()]);
        let heads = [("classifier.6", 3), ("features.28", 5)]
            .map(|(split, classes)| demo_head_from(Architecture::Vgg16Narrow, split, classes, 7));
        let place = |network: &dyn Network| heads.each_ref().map(|head| network.placer().place(head).unwrap());
        let (of_alone, of_both) = (place(&*alone), place(&*both));
        for (one, other) in of_alone.iter().zip(&of_both) {
            assert_eq!((one.classes, one.device_bytes), (other.classes, other.device_bytes));
            assert_eq!(one.shares_features(), other.shares_features());
        }

        let pictures: Vec<Vec<u8>> = (0..3)
            .map(|seed| (0..224 * 224 * 3).map(|at| (at * (seed + 7) % 251) as u8).collect())
            .collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let run = |network: &mut dyn Network, heads: &[PlacedHead; 2]| {
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
                NetworkError::ForeignHead
            );
        }
    }
}
