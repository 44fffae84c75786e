// client ADDRESS draw MODEL PROMPT [STEPS [WIDTH]]: a picture, from the request to its URL.
// client ADDRESS cancel ID: let a generation be.
// ATELIER_API_KEY is the API key, if one is wanted.
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"strconv"

	pb "atelier/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// [shown]
func draw(ctx context.Context, door pb.GenerationServiceClient, request *pb.CreateGenerationRequest) error {
	request.RequestId = newRequestID() // so that the same request may be sent again
	made, err := door.CreateGeneration(ctx, request)
	if err != nil {
		return err
	}
	fmt.Println("created", made.Generation.Id)
	views, err := door.WatchGeneration(ctx, &pb.WatchGenerationRequest{Id: made.Generation.Id})
	if err != nil {
		return err
	}
	for {
		view, err := views.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		at := view.Generation.GetProgress()
		fmt.Printf("%s %d/%d\n", view.Generation.State, at.GetStep(), at.GetTotalSteps())
		for _, result := range view.Generation.Results {
			fmt.Println("result", result.Url)
		}
	}
}

func explain(err error) {
	failed := status.Convert(err)
	fmt.Println("error", failed.Code(), failed.Message())
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			fmt.Println("reason", detail.Reason)
		case *errdetails.BadRequest:
			for _, wrong := range detail.FieldViolations {
				fmt.Println("field", wrong.Field, wrong.Description)
			}
		case *errdetails.RetryInfo:
			fmt.Println("retry after", float64(detail.RetryDelay.Seconds)+float64(detail.RetryDelay.Nanos)/1e9)
		}
	}
}

// [end]

func newRequestID() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	return fmt.Sprintf("%x", bytes)
}

func request(words []string) *pb.CreateGenerationRequest {
	image := &pb.ImageSpec{Prompt: words[1]}
	for n, field := range []**int32{&image.Steps, &image.Width} {
		if len(words) > 2+n {
			number, err := strconv.ParseInt(words[2+n], 10, 32)
			if err != nil {
				panic(err)
			}
			value := int32(number)
			*field = &value
		}
	}
	return &pb.CreateGenerationRequest{Model: words[0], Spec: &pb.CreateGenerationRequest_Image{Image: image}}
}

func main() {
	address, command, words := os.Args[1], os.Args[2], os.Args[3:]
	line, err := grpc.Dial(address, grpc.WithInsecure())
	if err != nil {
		panic(err)
	}
	defer line.Close()
	door := pb.NewGenerationServiceClient(line)
	ctx := context.Background()
	if key := os.Getenv("ATELIER_API_KEY"); key != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}
	if command == "draw" {
		err = draw(ctx, door, request(words))
	} else {
		_, err = door.CancelGeneration(ctx, &pb.CancelGenerationRequest{Id: words[0]})
		if err == nil {
			fmt.Println("cancelled", words[0])
		}
	}
	if err != nil {
		explain(err)
		os.Exit(1)
	}
}
