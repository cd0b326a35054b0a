//! The gRPC services of each port, from their descriptors: the list for reflection, and the status for an unknown path.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;

/// Paths in error messages are truncated to this many characters.
const NAME_CHARS_MAX: usize = 128;

/// A gRPC port and the services that only it serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortServices {
    pub names: &'static [&'static str],
    /// The port's name in error messages.
    label: &'static str,
}

pub(crate) const CLASSIFICATION: PortServices = PortServices {
    names: &["headswap.v1.ClassifierService"],
    label: "the classification port (--listen)",
};
pub(crate) const ADMINISTRATION: PortServices = PortServices {
    names: &["headswap.v1.HeadAdminService"],
    label: "the administration port (--admin-listen)",
};
/// Services that every port serves.
const COMMON: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// The properties of a method that the server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Method {
    /// True if the client may send several messages.
    pub client_streaming: bool,
}

type Methods = BTreeMap<String, Method>;

/// The services of one port, and which port serves each of the others.
#[derive(Debug)]
pub(crate) struct Services {
    served: BTreeMap<String, Methods>,
    elsewhere: BTreeMap<String, (Methods, &'static str)>,
    descriptors: FileDescriptorSet,
}

impl Services {
    pub fn for_port(port: PortServices) -> Self {
        let descriptors = all_descriptors();
        let (mut served, mut elsewhere) = (BTreeMap::new(), BTreeMap::new());
        for (name, methods) in services(&descriptors) {
            if is_served(port, &name) {
                served.insert(name, methods);
            } else if let Some(other) = [CLASSIFICATION, ADMINISTRATION]
                .into_iter()
                .find(|other| is_served(*other, &name))
            {
                elsewhere.insert(name, (methods, other.label));
            }
        }
        Self {
            served,
            elsewhere,
            descriptors: descriptors_of_port(port, descriptors),
        }
    }

    /// Returns the descriptors of this port's services and of everything that they import.
    pub fn descriptors(&self) -> FileDescriptorSet {
        self.descriptors.clone()
    }

    /// Returns the method at the path `/SERVICE/METHOD`.
    ///
    /// # Errors
    /// UNIMPLEMENTED; the message lists the known services or methods.
    pub fn method(&self, path: &str) -> Result<Method, Status> {
        let named = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((service, method)) = named.filter(|(service, method)| !service.is_empty() && !method.is_empty())
        else {
            let path = truncated(path);
            return Err(self.unknown(format!("{path} is not the path of a method, /SERVICE/METHOD")));
        };
        if let Some(methods) = self.served.get(service) {
            let found = methods.get(method).copied();
            return found.ok_or_else(|| self.no_such_method(service, method, methods));
        }
        match self.elsewhere.get(service) {
            Some((_, port)) => Err(Status::unimplemented(format!("{service} is served on {port}"))),
            None => Err(self.unknown(format!("there is no service {}", truncated(service)))),
        }
    }

    fn no_such_method(&self, service: &str, method: &str, methods: &Methods) -> Status {
        let known = join(methods.keys());
        let mut message = format!("{service} has no method {}; it has {known}", truncated(method));
        for (other, (others, port)) in &self.elsewhere {
            if others.contains_key(method) {
                message.push_str(&format!("; {other} has it and is served on {port}"));
            }
        }
        Status::unimplemented(message)
    }

    fn unknown(&self, problem: String) -> Status {
        Status::unimplemented(format!("{problem}; this port serves {}", join(self.served.keys())))
    }
}

fn is_served(port: PortServices, service: &str) -> bool {
    port.names.contains(&service) || COMMON.contains(&service)
}

fn all_descriptors() -> FileDescriptorSet {
    let sets = [
        headswap_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut all = FileDescriptorSet::default();
    for set in sets {
        let set = FileDescriptorSet::decode(set).expect("the descriptors were compiled with this program");
        all.file.extend(set.file);
    }
    all
}

fn services(descriptors: &FileDescriptorSet) -> BTreeMap<String, Methods> {
    let mut services = BTreeMap::new();
    for file in &descriptors.file {
        for service in &file.service {
            let mut methods = Methods::new();
            for method in &service.method {
                let client_streaming = method.client_streaming();
                methods.insert(method.name().to_owned(), Method { client_streaming });
            }
            services.insert(format!("{}.{}", file.package(), service.name()), methods);
        }
    }
    services
}

/// Returns the files that define the port's services, without other services, and the files that they import.
fn descriptors_of_port(port: PortServices, mut descriptors: FileDescriptorSet) -> FileDescriptorSet {
    let (mut wanted, mut queue) = (BTreeSet::new(), Vec::new());
    for file in &mut descriptors.file {
        let package = file.package().to_owned();
        file.service
            .retain(|service| is_served(port, &format!("{package}.{}", service.name())));
        if !file.service.is_empty() {
            queue.push(file.name().to_owned());
        }
    }
    while let Some(name) = queue.pop() {
        if let Some(file) = descriptors.file.iter().find(|file| file.name() == name)
            && wanted.insert(name)
        {
            queue.extend(file.dependency.iter().cloned());
        }
    }
    descriptors.file.retain(|file| wanted.contains(file.name()));
    descriptors
}

fn join<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Returns a name from outside, short enough for a message.
fn truncated(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is true for a client-streaming method, or a part of the error's message.
    fn check_method(port: PortServices, path: &str, expected: Result<bool, &str>) {
        let found = Services::for_port(port).method(path);
        match (found, expected) {
            (Ok(method), Ok(streaming)) => assert_eq!(method.client_streaming, streaming, "{path}"),
            (Err(status), Err(part)) => {
                assert_eq!(status.code(), tonic::Code::Unimplemented);
                assert!(status.message().contains(part), "{path}: {}", status.message());
                assert!(status.message().len() < 800);
            }
            (found, _) => panic!("{path}: {found:?}"),
        }
    }

    /// The port's descriptors have the service `own`, lack `other`, and are complete.
    fn check_descriptors(port: PortServices, own: &str, other: &str) {
        let descriptors = Services::for_port(port).descriptors();
        let names: Vec<String> = services(&descriptors).into_keys().collect();
        assert_eq!(names.iter().filter(|name| COMMON.contains(&name.as_str())).count(), 3);
        assert!(
            names.contains(&own.to_owned()) && !names.contains(&other.to_owned()),
            "{names:?}"
        );
        for file in &descriptors.file {
            for import in &file.dependency {
                assert!(
                    descriptors.file.iter().any(|file| file.name() == import),
                    "{import} is missing"
                );
            }
        }
    }

    #[test]
    fn a_path_names_a_method_or_the_error_lists_the_alternatives() {
        let long = format!("/{}/Check", "é".repeat(4000));
        check_method(CLASSIFICATION, "/headswap.v1.ClassifierService/Classify", Ok(false));
        check_method(
            CLASSIFICATION,
            "/headswap.v1.ClassifierService/ClassifyStream",
            Ok(true),
        );
        check_method(ADMINISTRATION, "/headswap.v1.HeadAdminService/UploadHead", Ok(true));
        for port in [CLASSIFICATION, ADMINISTRATION] {
            check_method(port, "/grpc.health.v1.Health/Watch", Ok(false));
            check_method(
                port,
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Ok(true),
            );
            check_method(
                port,
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                Ok(true),
            );
            for path in ["", "/", "//", "/a", "a/b", "/AWS.ALB/healthcheck", &long] {
                check_method(port, path, Err("this port serves grpc.health.v1.Health, "));
            }
        }
        check_method(
            CLASSIFICATION,
            "/headswap.v1.HeadAdminService/Nope",
            Err("headswap.v1.HeadAdminService is served on the administration port (--admin-listen)"),
        );
        check_method(
            ADMINISTRATION,
            "/headswap.v1.ClassifierService/Classify",
            Err("headswap.v1.ClassifierService is served on the classification port (--listen)"),
        );
        check_method(
            CLASSIFICATION,
            "/headswap.v1.ClassifierService/Nope",
            Err("headswap.v1.ClassifierService has no method Nope; it has Classify, ClassifyStream, Embed"),
        );
        check_method(
            CLASSIFICATION,
            "/headswap.v1.ClassifierService/ListHeads",
            Err("headswap.v1.HeadAdminService has it and is served on the administration port (--admin-listen)"),
        );
        check_method(
            CLASSIFICATION,
            "/headswap.v1.ClassifierService/Classify/",
            Err("has no method Classify/"),
        );
    }

    #[test]
    fn reflection_lists_only_the_services_of_the_port() {
        let (classifier, admin) = (CLASSIFICATION.names[0], ADMINISTRATION.names[0]);
        check_descriptors(CLASSIFICATION, classifier, admin);
        check_descriptors(ADMINISTRATION, admin, classifier);
    }

    /// A service that is missing from the tables above would be UNIMPLEMENTED.
    #[test]
    fn every_compiled_service_has_a_port() {
        let served: Vec<&str> = [CLASSIFICATION.names, ADMINISTRATION.names].concat();
        for name in services(&all_descriptors()).into_keys() {
            assert!(
                served.contains(&name.as_str()) || COMMON.contains(&name.as_str()),
                "{name}"
            );
        }
    }
}
