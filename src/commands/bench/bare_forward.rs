//! A network without a server, driven as the server drives it: a thread for each of its lanes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headswap_image::{self as image, ImageSettings, Prepared};
use headswap_model::{Backbone, Backend, HeadRows, InputRow, PlacedHead, TorchRuntime, open_backend};
use headswap_proto::classify_request::Input;
use headswap_spec::{Architecture, CompleteSpec, LAST_BIAS, PICTURE_BYTES, PICTURE_SIDE, Preprocessing, Preset};

use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;

/// A network with its default head.
pub(super) struct BareForward {
    lanes: Vec<LaneThread>,
    /// What computes, and in which element type.
    pub device: (String, String),
}

/// The thread of a lane, which ends when its sender is dropped.
struct LaneThread {
    jobs: mpsc::Sender<Job>,
    thread: thread::JoinHandle<()>,
}

type Job = Box<dyn FnOnce(&mut Lane) + Send>;

/// What the thread owns.
struct Lane {
    network: Box<dyn Backend>,
    head: Arc<PlacedHead>,
    preprocessing: Preprocessing,
}

impl BareForward {
    pub fn load(args: &ModelArgs, torch: Option<&dyn TorchRuntime>) -> Result<Self, CliError> {
        let mut backbone = Backbone::load(&args.weights, Architecture::Vgg16).map_err(|error| failed(&error))?;
        let last = backbone.take_last_linear();
        let network = open_backend(vec![backbone], &args.backend(), torch).map_err(|error| failed(&error))?;
        let preprocessing = Preset::Torchvision.preprocessing();
        let Some(bias) = last.get(LAST_BIAS) else {
            let reason = "the file lacks the last Linear; give a whole VGG16";
            return Err(CliError::Failed(format!("{}: {reason}", args.weights)));
        };
        let spec = CompleteSpec::plain(preprocessing, bias.values.len());
        let head = network.placer().place(&last, &spec).map_err(|error| failed(&error))?;
        let head = Arc::new(head);
        let devices: Vec<String> = network.devices().iter().map(ToString::to_string).collect();
        let device = (devices.join(","), network.precision().to_owned());
        let mut lanes = Vec::new();
        for network in network.into_lanes().into_iter().flatten() {
            let head = Arc::clone(&head);
            lanes.push(LaneThread::start(Lane {
                network,
                head,
                preprocessing,
            })?);
        }
        Ok(Self { lanes, device })
    }

    /// The times of batches on all lanes, for one image of each, after one run to warm up.
    pub fn measure(&self, batch: usize, length: Duration) -> Result<Times, CliError> {
        let lanes = self.lanes.len();
        let timed = self
            .lanes
            .iter()
            .map(|lane| lane.time(batch, length))
            .collect::<Vec<_>>();
        let mut times = Vec::new();
        for lane in timed {
            times.extend(lane.recv().map_err(|_| ended())??.0);
        }
        times.iter_mut().for_each(|time| *time /= (batch * lanes) as u32);
        Ok(Times::sorted(times))
    }

    /// The times of whole batches on one lane, with nothing beside them.
    pub fn measure_alone(&self, batch: usize, length: Duration) -> Result<Times, CliError> {
        let lane = self.lanes.first().ok_or_else(ended)?;
        lane.time(batch, length).recv().map_err(|_| ended())?
    }

    /// The times from a picture's bytes to its numbers, one after the other and with no server between.
    pub fn measure_pictures(&self, pictures: &[Input], length: Duration) -> Result<Times, CliError> {
        let lane = self.lanes.first().ok_or_else(ended)?;
        let pictures = pictures.to_vec();
        let timed = lane.ask(move |lane| {
            let mut pictures = pictures.iter().cycle();
            Times::of(length, || match pictures.next() {
                Some(Input::Image(bytes)) => {
                    let pixels = image::decode(bytes, ImageSettings::default());
                    let pixels = pixels.map_err(|error| CliError::Failed(error.to_string()))?;
                    lane.forward(&[pixels.into()])
                }
                Some(Input::Pixels(pixels)) => lane.forward(&[picture(pixels.clone())]),
                None => Ok(()),
            })
        });
        timed.recv().map_err(|_| ended())?
    }
}

impl Drop for BareForward {
    /// Ends the threads before the process does: what they let go of is the device's.
    fn drop(&mut self) {
        let (jobs, threads): (Vec<_>, Vec<_>) = self.lanes.drain(..).map(|lane| (lane.jobs, lane.thread)).unzip();
        drop(jobs);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

fn failed(error: &dyn std::error::Error) -> CliError {
    CliError::Failed(error.to_string())
}

fn ended() -> CliError {
    CliError::Failed("the network's thread has ended".into())
}

impl LaneThread {
    fn start(mut lane: Lane) -> Result<Self, CliError> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().name("device".into());
        Ok(Self {
            jobs: sender,
            thread: thread.spawn(move || jobs.iter().for_each(|job| job(&mut lane)))?,
        })
    }

    fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Lane) -> T + Send + 'static) -> mpsc::Receiver<T> {
        let (answer, answers) = mpsc::channel();
        let job = Box::new(move |lane: &mut Lane| {
            let _ = answer.send(job(lane));
        });
        // If the thread has ended, so has the answer's sender.
        let _ = self.jobs.send(job);
        answers
    }

    fn time(&self, batch: usize, length: Duration) -> mpsc::Receiver<Result<Times, CliError>> {
        self.ask(move |lane| {
            let prepared = lane.network.prepare(batch, &AtomicBool::new(false));
            prepared.map_err(|error| failed(&error))?;
            let values = (0..PICTURE_BYTES).map(|index| (index * 31 % 251) as u8).collect();
            let pictures = vec![picture(values); batch];
            Times::of(length, || lane.forward(&pictures))
        })
    }
}

impl Lane {
    fn forward(&mut self, pictures: &[Prepared]) -> Result<(), CliError> {
        let groups = [HeadRows {
            head: &self.head,
            rows: (0..pictures.len()).collect(),
        }];
        let mut rows = Vec::with_capacity(pictures.len());
        for picture in pictures {
            rows.push(InputRow {
                picture,
                preprocessing: &self.preprocessing,
            });
        }
        let outputs = self.network.forward(&rows, &groups, &[]);
        outputs.map(drop).map_err(|error| CliError::Failed(error.to_string()))
    }
}

/// A picture of 224x224 pixels.
fn picture(values: Bytes) -> Prepared {
    Prepared::Bytes {
        size: [PICTURE_SIDE; 2],
        values,
    }
}

/// How long each of many repetitions took, ascending; never none.
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// Of what is done over and over, after once to warm up.
    pub fn of(length: Duration, mut once: impl FnMut() -> Result<(), CliError>) -> Result<Self, CliError> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while times.len() < 4 || began.elapsed() < length {
            let started = Instant::now();
            once()?;
            times.push(started.elapsed());
        }
        times.remove(0);
        Ok(Self::sorted(times))
    }

    fn sorted(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// What a single one takes, whatever disturbed a few.
    pub fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// What one takes of all the time, to compare with a rate.
    pub fn mean(&self) -> Duration {
        self.0.iter().sum::<Duration>() / self.0.len() as u32
    }
}
