// Classifies a picture and prints the most probable classes of each head.
//
// With Go, protoc, protoc-gen-go and protoc-gen-go-grpc installed (proto/README.md), in the root of the repository:
//
//	protoc -Iproto --go_out=examples/go --go_opt=module=headswap.dev \
//	    --go-grpc_out=examples/go --go-grpc_opt=module=headswap.dev proto/headswap/v1/*.proto
//	cd examples/go && go mod tidy
//	go run . ../../images/chelsea.png
//	go run . ../../images/chelsea.png default cats
//
// HEADSWAP_ADDRESS names a server other than 127.0.0.1:50051.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	headswapv1 "headswap.dev/gen/headswap/v1"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: go run . PICTURE [HEAD...]")
	}
	image, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	address := os.Getenv("HEADSWAP_ADDRESS")
	if address == "" {
		address = "127.0.0.1:50051"
	}

	connection, err := grpc.NewClient(
		address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Responses with the logits of many classes are larger than gRPC's default limit of 4 MiB.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	response, err := headswapv1.NewClassifierServiceClient(connection).Classify(ctx, &headswapv1.ClassifyRequest{
		Input: &headswapv1.ClassifyRequest_Image{Image: image},
		Heads: os.Args[2:],
		TopK:  3,
	})
	if err != nil {
		logDetails(status.Convert(err))
		log.Fatal(err)
	}

	for _, result := range response.GetResults() {
		// Of several heads, some can fail while the call succeeds.
		if result.GetError() != nil {
			log.Printf("%s: %s", result.GetHead(), result.GetError().GetMessage())
			logDetails(status.FromProto(result.GetError()))
			continue
		}
		fmt.Printf("%s, version %d\n", result.GetHead(), result.GetVersion())
		for _, prediction := range result.GetPredictions() {
			label := prediction.GetLabel()
			if label == "" {
				label = fmt.Sprint(prediction.GetIndex())
			}
			// Some heads answer values, which are no probabilities.
			if prediction.GetKind() == headswapv1.OutputKind_OUTPUT_KIND_LINEAR {
				fmt.Printf("  %8.4g  %s\n", prediction.GetValue(), label)
			} else {
				fmt.Printf("  %5.1f %%  %s\n", 100*prediction.GetProbability(), label)
			}
		}
	}
}

// logDetails prints what a client can act on.
func logDetails(failed *status.Status) {
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				log.Printf("fix the field %s: %s", violation.GetField(), violation.GetDescription())
			}
		case *errdetails.QuotaFailure:
			for _, violation := range detail.GetViolations() {
				log.Printf("exceeded %s: %s", violation.GetSubject(), violation.GetDescription())
			}
		case *errdetails.ResourceInfo:
			log.Printf("no %s %s", detail.GetResourceType(), detail.GetResourceName())
		case *errdetails.RetryInfo:
			log.Printf("try again after %s", detail.GetRetryDelay().AsDuration())
		}
	}
}
